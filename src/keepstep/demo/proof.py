"""Two runs compared: are the interrupted one's last checkpoint and history the same as the uninterrupted one's?"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep.model import Checkpoint
from keepstep.run import Run

COMPARED = {
    "adapter_model.safetensors": "weights",
    "optimizer.pt": "optimizer",
    "scheduler.pt": "scheduler",
    "rng_state.pth": "random state",
}
_TIMINGS = ("_runtime", "_per_second")


@dataclass(frozen=True, slots=True)
class Comparison:
    """One thing compared: its name, both values in short, and whether they are the same."""

    what: str
    one: str
    other: str
    same: bool


def compare(uninterrupted: Run, interrupted: Run) -> list[Comparison]:
    """Files by digest, the log history by value (wall-clock times aside), of the last checkpoints of two runs."""
    one, other = uninterrupted.latest, interrupted.latest
    if one is None or other is None:
        raise ValueError("both runs need a checkpoint")
    found = [Comparison("last step", str(one.step), str(other.step), one.step == other.step)]
    for file, what in COMPARED.items():
        left, right = _digest(one, file), _digest(other, file)
        found.append(Comparison(what, left[-12:], right[-12:], left == right))
    left_log, right_log = _history(one), _history(other)
    sizes = (f"{len(left_log)} entries", f"{len(right_log)} entries")
    found.append(Comparison("log history", *sizes, left_log == right_log))
    return found


def _digest(checkpoint: Checkpoint, path: str) -> str:
    return next((file.digest for file in checkpoint.files if file.path == path), "missing")


def _history(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    assert checkpoint.path is not None
    state = json.loads((Path(checkpoint.path) / "trainer_state.json").read_text(encoding="utf-8"))
    return [{k: v for k, v in entry.items() if not k.endswith(_TIMINGS)} for entry in state["log_history"]]
