"""`trainer_state.json` as the Trainer wrote it: step, epoch, log, and the course that the log is of."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import Any, cast

import msgspec

NAME = "trainer_state.json"
LARGEST = 512 * 2**20
"""Bytes above which the file is refused unread."""
NO_METRIC = ("step", "epoch")
EVALUATED = "eval_"
"""Begin of the names of what an evaluation logged."""


@dataclass(frozen=True, slots=True)
class TrainerState:
    """What the Trainer knew at a save. `log` are its records, oldest first; numbers in them may be NaN.

    `best` is the name of the directory that was the best then, without its path, which may have been another machine's.
    """

    step: int
    epoch: float | None
    max_steps: int | None
    best: str | None
    best_value: float | None
    log: tuple[Mapping[str, Any], ...]
    prefixes: tuple[bytes, ...] = field(repr=False, default=())
    """A digest of the first, of the first two, ... of all records."""

    def metrics(self) -> dict[str, float]:
        """What was evaluated at exactly this step: the numbers of its evaluations' records, by name."""
        found: dict[str, float] = {}
        for record in self.log:
            if record.get("step") == self.step and any(name.startswith(EVALUATED) for name in record):
                found |= {name: float(v) for name, v in record.items() if name not in NO_METRIC and is_number(v)}
        return found

    def begins(self, other: TrainerState) -> bool:
        """True where this one's log is the beginning of another's, record by record."""
        count = len(self.prefixes)
        return not count or (count <= len(other.prefixes) and other.prefixes[count - 1] == self.prefixes[-1])


def is_number(value: object) -> bool:
    """True for what a metric's value may be; a bool is none."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def read_state(checkpoint: Path) -> TrainerState | str:
    """The state in a checkpoint's directory, or what is wrong with it. Raises FileNotFoundError where there is none,
    OSError.
    """
    with open(checkpoint / NAME, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        return "is too large to be read"
    try:
        found = _decoded(data)
    except (ValueError, RecursionError):
        return "is no whole JSON"
    if not isinstance(found, dict):
        return "is no JSON object"
    state = cast("dict[str, Any]", found)
    step, log = state.get("global_step"), state.get("log_history")
    if not isinstance(step, int) or not isinstance(log, list):
        return "has no step, or no log"
    records = tuple(cast("dict[str, Any]", r) for r in cast("list[Any]", log) if isinstance(r, dict))
    best = state.get("best_model_checkpoint")
    return TrainerState(
        step,
        _number(state.get("epoch")),
        state["max_steps"] if isinstance(state.get("max_steps"), int) else None,
        best.replace("\\", "/").rstrip("/").rpartition("/")[2] if isinstance(best, str) else None,
        _number(state.get("best_metric")),
        records,
        _prefixes(records),
    )


def values_in(checkpoint: Path, metric: str) -> dict[int, float] | None:
    """The values of one metric in the log of a checkpoint, by step; None where its state can't be read. Raises OSError.

    A twentieth of the time of `read_state`, where the log is strict JSON.
    """
    with open(checkpoint / NAME, "rb") as file:
        data = file.read(LARGEST + 1)
    try:
        return {r.step: r.value for r in _typed(metric).decode(data).log_history if r.value is not None}
    except (msgspec.DecodeError, RecursionError):
        state = read_state(checkpoint)
    if isinstance(state, str):
        return None
    logged = ((record.get("step"), record.get(metric)) for record in state.log)
    return {step: float(v) for step, v in logged if isinstance(step, int) and v is not None and is_number(v)}


@lru_cache(maxsize=64)
def _typed(metric: str) -> msgspec.json.Decoder[Any]:
    record = msgspec.defstruct("_Record", [("step", int, -1), ("value", float | None, None)], rename={"value": metric})
    state = msgspec.defstruct("_State", [("global_step", int), ("log_history", list[record])])  # pyright: ignore
    return msgspec.json.Decoder(state)


def _decoded(data: bytes) -> Any:
    try:
        return msgspec.json.decode(data)
    except msgspec.DecodeError:
        return json.loads(data)  # Python's own writer knows NaN and Infinity


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _prefixes(records: tuple[Mapping[str, Any], ...]) -> tuple[bytes, ...]:
    digest, found = blake2b(digest_size=16), list[bytes]()
    for record in records:
        # As text: NaN equals no NaN, and the time that an evaluation took tells two starts with one seed apart.
        digest.update(repr(sorted(record.items(), key=_name)).encode())
        found.append(digest.digest())
    return tuple(found)


def _name(item: tuple[str, Any]) -> str:
    return item[0]
