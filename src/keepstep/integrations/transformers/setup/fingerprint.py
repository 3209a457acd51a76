"""What a checkpoint remembers of its training, to be compared with at a resume: arguments, data, model, versions."""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sized
from contextlib import contextmanager
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
import xxhash

from keepstep.integrations.transformers.setup.arguments import plain, plain_arguments
from keepstep.integrations.transformers.setup.zero import part_of, whole_numel, whole_shape
from keepstep.snapshot.finding import find
from keepstep.snapshot.random_state import note, seed_all, untouched
from keepstep.version import __version__

PACKAGES = ("torch", "transformers", "accelerate", "peft", "trl", "datasets", "numpy", "safetensors")
SAMPLED_ROWS = 256
"""Rows of a data set that its digest reads, spread evenly, the first and the last included."""
FEW_ROWS = 4
"""Rows that are read even where each takes long."""
PATIENCE = 0.75
"""Seconds that reading rows of one data set may take; the row that is being read then is waited for."""
SAMPLED_VALUES = 256
"""Values of each frozen parameter that the digest of the base model reads."""
BASE = "base weights"
"""The name of the digest of what does not train, in the section of the model."""
ADAPTER_KEYS = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules", "use_rslora", "use_dora", "bias")


def fingerprint(trainer: Any) -> dict[str, dict[str, Any]]:
    """Sections of plain values; what can't be known is None. Draws no random numbers."""
    return {
        "arguments": plain_arguments(trainer.args),
        "data": dataset_fingerprint(getattr(trainer, "train_dataset", None)),
        "eval data": dataset_fingerprint(getattr(trainer, "eval_dataset", None)),
        "model": _model(trainer.model),
        "adapter": _adapter(trainer.model),
        "optimizer": {"class": _optimizer_name(trainer)},
        "versions": versions(),
        "device": _device(trainer.args),
    }


def slow_to_read(found: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """A sentence for each data set of a fingerprint whose rows take long to read."""
    for section, what in (("data", "the training data"), ("eval data", "the evaluation data")):
        for name, count in found.get(section, {}).items():
            if name.rpartition(".")[2] == "sampled":
                rows = "1 row" if count == 1 else f"{count} rows"
                yield f"{what} is slow to read: a resume compares {rows} of it, and their number"


def versions() -> dict[str, str | None]:
    """Versions of python and of each package that takes part in training."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def written_by(trainer: Any) -> dict[str, Any]:
    """Who writes a checkpoint: versions, trainer class, world size, dtype, parameter counts."""
    model = trainer.model
    parameters = list(model.parameters())
    return {
        "keepstep": __version__,
        **versions(),
        "trainer": trained_class(trainer).__name__,
        "world_size": trainer.args.world_size,
        "dtype": _dtype(parameters),
        "parameters": sum(map(whole_numel, parameters)),
        "trainable_parameters": sum(whole_numel(p) for p in parameters if p.requires_grad),
    }


def trained_class(trainer: Any) -> type:
    """The trainer's class as the user wrote it."""
    return getattr(type(trainer), "_keepstep_original", type(trainer))


def dataset_fingerprint(dataset: Any, patience: float = PATIENCE) -> dict[str, Any]:
    """Number of rows and digests of evenly spread rows, many and a few; None for what can't be read twice (streams).

    Reading ends after `patience` seconds: then the digest of many is None, and `sampled` says how many rows were read.
    """
    if isinstance(dataset, dict):
        share = patience / max(len(dataset), 1)
        parts = {str(name): dataset_fingerprint(part, share) for name, part in dataset.items()}
        return {f"{name}.{key}": value for name, part in parts.items() for key, value in part.items()}
    if not isinstance(dataset, Sized) or not hasattr(dataset, "__getitem__") or len(dataset) == 0:
        return {"rows": None, "digest": None}
    found = find({"dataset": dataset})
    with untouched(found.generators.values()), _counters_kept(found.holders):
        return {"rows": len(dataset), **_rows_digests(dataset, found.generators, time.monotonic() + patience)}


def _rows_digests(dataset: Any, own: Mapping[str, Any], until: float) -> dict[str, Any]:
    """The digests, and `random` where rows are drawn: each is read with all generators begun anew, to be comparable."""
    seed_all(0, own.values())
    begun, drawn, read = note(own), False, dict[int, bytes]()
    few, many = _spread(len(dataset), FEW_ROWS), _spread(len(dataset), SAMPLED_ROWS)
    try:
        for index in dict.fromkeys([0, *few, *many]):
            if read and time.monotonic() > until:
                break
            read[index] = repr(_row(dataset, index)).encode()
            if not note(own).equals(begun):
                drawn = True
                seed_all(0, own.values())
            if len(read) == 1 and not _same_again(dataset, own, read[index]):
                return {"digest": None}  # drawn from what nobody can find
    except Exception:  # the user's own dataset code may refuse; a resume must not depend on it
        return {"digest": None}
    digests = {"digest": _digest_of(read, many), "few": _digest_of(read, few)}
    slow = {"sampled": len(read)} if digests["digest"] is None else {}
    return {**digests, **slow, **({"random": True} if drawn else {})}


def _same_again(dataset: Any, own: Mapping[str, Any], before: bytes) -> bool:
    again = repr(_row(dataset, 0)).encode()
    seed_all(0, own.values())
    return again == before


def _spread(rows: int, wanted: int) -> list[int]:
    """As many rows, evenly spread, the first and the last included."""
    count = min(rows, wanted)
    return sorted({index * (rows - 1) // max(count - 1, 1) for index in range(count)})


def _digest_of(read: Mapping[int, bytes], rows: list[int]) -> str | None:
    """None where one of the rows was not read."""
    if any(index not in read for index in rows):
        return None
    state = xxhash.xxh3_128()
    for index in rows:
        state.update(read[index])
    return state.hexdigest()


@contextmanager
def _counters_kept(holders: list[Any]) -> Iterator[None]:
    """Afterwards, plain values that reading rows changes in the user's own objects are what they were."""
    before = [(one, dict(_vars(one))) for one in holders]
    try:
        yield
    finally:
        for one, kept in before:
            now = _vars(one)
            for name in [name for name, value in now.items() if isinstance(value, _PLAIN)]:
                if name not in kept:
                    del now[name]
                elif isinstance(kept[name], _PLAIN):
                    now[name] = kept[name]


_PLAIN = (int, float, str, bool, type(None))


def _vars(one: Any) -> dict[str, Any]:
    found = getattr(one, "__dict__", None)
    return found if isinstance(found, dict) else {}


def _row(dataset: Any, index: int) -> Any:
    row = dataset[index]
    return sorted((str(key), _values(value)) for key, value in row.items()) if hasattr(row, "items") else _values(row)


def _values(value: Any) -> Any:
    return value.tolist() if hasattr(value, "tolist") else value


def base_digest(model: Any) -> str | None:
    """A digest of what does not train, from samples of each parameter; None where all does."""
    return _frozen_digest([(name, p) for name, p in model.named_parameters() if not p.requires_grad])


def _model(model: Any) -> dict[str, Any]:
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    shapes = sorted(f"{name} {whole_shape(p)}" for name, p in named)
    return {
        "class": type(model).__name__,
        "trainable": sum(whole_numel(p) for _, p in named),
        "shapes": xxhash.xxh3_128_hexdigest("\n".join(shapes).encode()),
        "dtype": _dtype([p for _, p in named]),
        BASE: base_digest(model),
    }


def _frozen_digest(frozen: list[tuple[str, torch.Tensor]]) -> str | None:
    if not frozen:
        return None
    state = xxhash.xxh3_128()
    for name, parameter in frozen:
        held = part_of(parameter).detach()
        values = held.flatten()[:: max(held.numel() // SAMPLED_VALUES, 1)][:SAMPLED_VALUES]
        state.update(name.encode())
        state.update(values.contiguous().view(torch.uint8).cpu().numpy().tobytes())
    return state.hexdigest()


def _adapter(model: Any) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, config in getattr(model, "peft_config", {}).items():
        values = config.to_dict() if hasattr(config, "to_dict") else {}
        for key in ADAPTER_KEYS:
            if key in values:
                value = values[key]
                plain = sorted(map(str, value)) if isinstance(value, (set, list, tuple)) else value
                found[key if name == "default" else f"{name}.{key}"] = getattr(plain, "value", plain)
    return found


def _optimizer_name(trainer: Any) -> str:
    given = getattr(trainer, "_keepstep_given_optimizer", None)
    return given or plain(trainer.args.optim)


def _device(args: Any) -> dict[str, Any]:
    kind = args.device.type
    if kind == "cuda":
        return {"type": kind, "name": torch.cuda.get_device_name(args.device), "cuda": torch.version.cuda}
    return {"type": kind, "name": platform.machine(), "threads": torch.get_num_threads()}


def _dtype(parameters: list[Any]) -> str:
    return ", ".join(sorted({str(p.dtype).removeprefix("torch.") for p in parameters})) or "none"


@cache
def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
