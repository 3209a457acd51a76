"""How large one checkpoint of a trainer will be, before the first one is written."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from keepstep.errors import SettingsError
from keepstep.integrations.transformers.resuming.adapters import saved_adapters, targets_of
from keepstep.integrations.transformers.resuming.trained import adapted, parts_of, unwrapped
from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.sharding import gathers
from keepstep.integrations.transformers.setup.zero import (
    STAGE_DIVIDES_WEIGHTS,
    by_deepspeed,
    gathers_weights,
    stage_of,
    whole_numel,
    whole_shape,
)
from keepstep.operations.planning.files import torch_bytes, weights_bytes
from keepstep.operations.planning.optimizers import Optimizer, optimizer_named, state_tensors
from keepstep.operations.planning.tensors import Tensor, dtype_named

_SURE = 0.95
"""What is certain of an estimate: it is right to 5 %."""
_BESIDE = 6_600
"""`trainer_state.json` of a first save, `training_args.bin`, `generation_config.json`."""
_CARD, _ADAPTER = 5_200, 1_100
"""The card that PEFT writes, and its settings for each adapter."""
_RESUMING = 44_000
"""Of each process the states of its random generators, and of its loop; the scheduler's."""
_FP32_BYTES, _SCRIPTS = 4, 41_000
"""Of a value of ZeRO's own copy; of the scripts that DeepSpeed writes beside it."""
_IMPRINT = 28
"""Bytes of the digest of one tensor."""


@dataclass(frozen=True, slots=True)
class Size:
    """Bytes of one checkpoint: all of it, what is left of it once it is thinned, and the least that it can take."""

    whole: int
    weights: int
    at_least: int


UNKNOWN = Size(0, 0, 0)


def size_of(trainer: Any) -> Size:
    """About the bytes of one checkpoint: weights, the optimizer's state, the tokenizer's files and those of the loop.

    Right to 5 % where the optimizer is one that keepstep knows; of any other it is taken to keep what AdamW keeps.
    """
    model, args = trainer.model, trainer.args
    saved = list(_saved(trainer))
    weights = weights_bytes(saved) + _tokenizer_bytes(trainer) + _BESIDE + _IMPRINT * len(saved)
    if adapted(model):
        weights += _CARD + _ADAPTER * len(saved_adapters(unwrapped(model)))
    else:
        weights += len(_config_of(model))
    if gathers(trainer):
        weights += weights_bytes(saved)  # as FSDP loads them, and once more as a model is loaded
    if args.save_only_model:
        return Size(weights, weights, int(_SURE * weights))
    rest = _RESUMING * int(args.world_size)
    kept, known = _optimizer(trainer)
    tables = _tables(model)
    trains = [_planned("", p, embedding=p in tables) for p in model.parameters() if p.requires_grad]
    if stage_of(trainer):
        # Its own copy of the weights, and their moments, in fp32; the weights once more where they are not divided.
        trains = [replace(one, dtype=dtype_named("float32")) for one in trains]
        rest += _SCRIPTS + _FP32_BYTES * sum(whole_numel(p) for p in model.parameters() if p.requires_grad)
        rest += weights_bytes(saved) if stage_of(trainer) < STAGE_DIVIDES_WEIGHTS else 0
        weights -= 0 if adapted(model) or gathers_weights(trainer) else weights_bytes(saved)
    state = state_tensors(kept, trains)
    moments = torch_bytes((tensor.nbytes for tensor in state), len(trains)) + _IMPRINT * len(state)
    whole = weights + rest + moments
    return Size(whole, weights, int(_SURE * (whole if known else weights + rest)))


def _saved(trainer: Any) -> Iterator[Tensor]:
    """The tensors of a checkpoint's weights, each once: what the stock writers write, and whatever else trains."""
    model = unwrapped(trainer.model)
    found: dict[str, torch.Tensor] = {}
    if not adapted(model):
        ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
        found = {name: tensor for name, tensor in parts_of(model).state.items() if name not in ignored}
    else:
        if not _sharded(trainer):  # there each process holds a part, and asking for all waits for the others
            for name in saved_adapters(model):
                found |= {f"{name}.{key}": tensor for key, tensor in targets_of(model, name).items()}
        found |= parts_of(model).trained
    seen: set[tuple[int, int]] = set()
    for name, tensor in found.items():
        place = (_address(tensor), tensor.nelement())
        if place not in seen:
            seen.add(place)
            yield _planned(name, tensor)


def _sharded(trainer: Any) -> bool:
    return bool(getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False))


def _address(tensor: torch.Tensor) -> int:
    """Where a tensor lies; what has no memory of its own yet is told apart by what it is."""
    try:
        return tensor.data_ptr() or id(tensor)
    except RuntimeError:
        return id(tensor)


def _planned(name: str, tensor: torch.Tensor, *, embedding: bool = False) -> Tensor:
    """A tensor as the arithmetic of files knows it; what it has no dtype for counts by its bytes."""
    try:
        return Tensor(name, whole_shape(tensor), dtype_named(str(tensor.dtype)), embedding)
    except SettingsError:
        return Tensor(name, (whole_numel(tensor) * tensor.element_size(),), "i8", embedding)


def _tables(model: Any) -> set[torch.Tensor]:
    return {module.weight for module in model.modules() if isinstance(module, torch.nn.Embedding)}


def _config_of(model: Any) -> str:
    config: Any = getattr(model, "config", None)
    return config.to_json_string() if hasattr(config, "to_json_string") else ""


def _tokenizer_bytes(trainer: Any) -> int:
    """Bytes of the tokenizer's or processor's files, written once beside the run; of one with its own writer, 0."""
    kept: Any = getattr(trainer, "processing_class", None) or getattr(trainer.data_collator, "tokenizer", None)
    writer = getattr(type(kept), "save_pretrained", None)
    if not getattr(writer, "__module__", "").startswith("transformers."):
        return 0
    with TemporaryDirectory(prefix="keepstep-") as scratch:
        kept.save_pretrained(scratch)
        return sum(path.stat().st_size for path in Path(scratch).rglob("*") if path.is_file())


def _optimizer(trainer: Any) -> tuple[Optimizer, bool]:
    """What the trainer's optimizer keeps, and whether that is known; before it is made, what `optim` names."""
    made = trainer.optimizer
    for _ in range(2 if by_deepspeed(trainer) else 1):
        made = getattr(made, "optimizer", made)  # what accelerate, and DeepSpeed, wrap
    names: Iterable[str] = [plain(trainer.args.optim)] if made is None else _names_of(made)
    for name in names:
        try:
            return optimizer_named(name), True
        except SettingsError:
            continue
    return optimizer_named("adamw"), False


def _names_of(optimizer: Any) -> Iterator[str]:
    """What an optimizer may be called in the table, by its class and by what it was made with."""
    kind = type(optimizer)
    name = re.sub(r"^(paged|fused)|(8|32)bit$", "", kind.__name__.lower())
    name = {"adam": "adamw"}.get(name, name)
    if kind.__module__.startswith("bitsandbytes."):
        bits = getattr(getattr(optimizer, "args", None), "optim_bits", 32)
        yield f"{name}-{8 if bits == 8 else 32}bit"
        return
    if name == "sgd" and any(group.get("momentum") for group in optimizer.param_groups):
        yield "sgd-momentum"
    yield name
