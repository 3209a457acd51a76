"""Two trainings compared bit for bit: what they left on disk, what they logged, where their generators stand."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

WALL_TIME = ("_runtime", "_per_second", "_preparation_time")
"""Endings of the only fields that may differ."""
SKIPPED = ("training_args.bin",)
"""It names the run's directory; what is in it that matters is in the fingerprint."""


def load(outcome: Path) -> dict[str, Any]:
    """`outcome.json` of a training."""
    return json.loads((outcome / "outcome.json").read_text())


def differences(one: Path, other: Path) -> list[str]:
    """Every difference between two trainings, in words; empty when they are the same bit for bit.

    Each path holds a `run` (the output directory) and an `outcome`.
    """
    found = list(_outcomes(load(one / "outcome"), load(other / "outcome")))
    found += _files(one / "outcome" / "final", other / "outcome" / "final", "final")
    found += _file(one / "outcome" / "final.pt", other / "outcome" / "final.pt", "final.pt")
    names, others = (sorted(path.name for path in (root / "run").glob("checkpoint-*")) for root in (one, other))
    if names != others:
        found.append(f"checkpoints: {names} and {others}")
    for name in sorted(set(names) & set(others)):
        found += _files(one / "run" / name, other / "run" / name, name)
    return found


def checkpoint_differences(one: Path, other: Path) -> list[str]:
    """Every difference between two checkpoints, in words; their place in their runs aside."""
    places = (f"{one.name}/keepstep.json: generation", f"{one.name}/keepstep.json: timeline")
    return [text for text in _files(one, other, one.name) if not text.startswith(places)]


def history_differences(one: Sequence[Mapping[str, Any]], other: Sequence[Mapping[str, Any]]) -> list[str]:
    """Differences of two log histories, entry by entry, wall times aside."""
    found = [] if len(one) == len(other) else [f"history: {len(one)} and {len(other)} entries"]
    for left, right in zip(one, other, strict=False):
        if repr(_timeless(left)) != repr(_timeless(right)):
            found.append(f"history: {_timeless(left)} and {_timeless(right)}")
    return found


def values_differences(one: Path, other: Path) -> list[str]:
    """The first difference between the values of two files of torch, in words; empty where there is none."""
    return list(_file(one, other, one.name))


def _outcomes(one: dict[str, Any], other: dict[str, Any]) -> Iterator[str]:
    yield from history_differences(one["history"], other["history"])
    if repr(_timeless(one["metrics"])) != repr(_timeless(other["metrics"])):
        yield f"metrics: {_timeless(one['metrics'])} and {_timeless(other['metrics'])}"
    for name in ("training_loss", "global_step", "best"):
        if repr(one[name]) != repr(other[name]):
            yield f"{name}: {one[name]} and {other[name]}"


def _timeless(entry: Mapping[str, Any]) -> dict[str, Any]:
    # Sorted: an entry that was read back from trainer_state.json has its names in the file's order.
    return {name: value for name, value in sorted(entry.items()) if not name.endswith(WALL_TIME)}


def _files(one: Path, other: Path, where: str) -> Iterator[str]:
    names, others = (
        sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()) for root in (one, other)
    )
    if names != others:
        yield f"{where}: files {names} and {others}"
    for name in sorted(set(names) & set(others)):
        if name not in SKIPPED:
            yield from _file(one / name, other / name, f"{where}/{name}")


def _file(one: Path, other: Path, where: str) -> Iterator[str]:
    if one.suffix in (".pt", ".pth", ".bin"):
        left, right = (torch.load(path, weights_only=False) for path in (one, other))
        if problem := _unlike(left, right):
            yield f"{where}: {problem}"
    elif one.name == "trainer_state.json":
        yield from _trainer_states(json.loads(one.read_text()), json.loads(other.read_text()), where)
    elif one.name == "adapter_config.json":
        yield from _adapter_configs(json.loads(one.read_text()), json.loads(other.read_text()), where)
    elif one.name == "keepstep.json":
        yield from _manifests(json.loads(one.read_text()), json.loads(other.read_text()), where)
    elif one.read_bytes() != other.read_bytes():
        yield f"{where}: other bytes"


def _trainer_states(one: dict[str, Any], other: dict[str, Any], where: str) -> Iterator[str]:
    histories = one.pop("log_history"), other.pop("log_history")
    yield from (f"{where}: {text}" for text in history_differences(*histories))
    for state in (one, other):
        best = state["best_model_checkpoint"]
        state["best_model_checkpoint"] = best and Path(best).name
    yield from (f"{where}: {name} {one.get(name)} and {other.get(name)}" for name in one | other
                if repr(one.get(name)) != repr(other.get(name)))  # fmt: skip


def _adapter_configs(one: dict[str, Any], other: dict[str, Any], where: str) -> Iterator[str]:
    for config in (one, other):
        # peft writes this set in the order of the interpreter's hash seed.
        config["target_modules"] = sorted(config["target_modules"])
    if one != other:
        yield f"{where}: {one} and {other}"


def _manifests(one: dict[str, Any], other: dict[str, Any], where: str) -> Iterator[str]:
    for name in ("step", "epoch", "kind", "metrics", "generation", "timeline", "fingerprint"):
        if one.get(name) != other.get(name):
            yield f"{where}: {name} {one.get(name)} and {other.get(name)}"


def _unlike(one: Any, other: Any, where: str = "") -> str | None:
    """The first place at which two loaded values differ, dtypes included; None when they are the same bits."""
    if type(one) is not type(other):
        return f"{where}: {type(one).__name__} and {type(other).__name__}"
    if isinstance(one, Mapping):
        return _unlike_parts(list(one.items()), list(other.items()), where)
    if isinstance(one, (list, tuple)):
        return _unlike_parts(list(enumerate(one)), list(enumerate(other)), where)
    return None if _same_bits(one, other) else f"{where}: differs"


def _unlike_parts(one: list[tuple[Any, Any]], other: list[tuple[Any, Any]], where: str) -> str | None:
    keys, others = [key for key, _ in one], [key for key, _ in other]
    if keys != others:
        return f"{where}: parts {keys} and {others}"
    found = (_unlike(a, b, f"{where}.{key}") for (key, a), (_, b) in zip(one, other, strict=True))
    return next(filter(None, found), None)


def _same_bits(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return one.dtype == other.dtype and one.shape == other.shape and torch.equal(_bits(one), _bits(other))
    if isinstance(one, np.ndarray):
        return one.dtype == other.dtype and one.tobytes() == other.tobytes()
    return repr(one) == repr(other)


def _bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.contiguous().flatten().view(torch.uint8) if tensor.numel() else tensor
