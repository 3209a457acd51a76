"""What the runs of a supervised command have on disk, and the way one checkpoint back."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from keepstep.errors import KeepstepError
from keepstep.model import Checkpoint
from keepstep.run import Run, open_run


@dataclass(frozen=True, slots=True)
class Safe:
    """What is on disk of a run: how many checkpoints, the newest that can be resumed from, the last generation."""

    path: Path
    count: int
    newest: Checkpoint | None
    generation: int

    def describe(self) -> str:
        """One line."""
        if self.newest is None:
            return f"{self.path}: no checkpoint to resume from"
        several = "1 checkpoint" if self.count == 1 else f"{self.count} checkpoints"
        return f"{self.path}: {several}, the newest is step {self.newest.step}"


def safe_in(path: Path) -> Safe | None:
    """What is on disk of a run; None where there is none, or it can't be read."""
    try:
        run = open_run(path)
        resumable = [one for one in run.checkpoints if one.resumable]
        generation = run.events.last_generation() if run.managed else len(run.checkpoints)
        return Safe(path, len(run.checkpoints), resumable[-1] if resumable else None, generation)
    except (KeepstepError, OSError):
        return None


def stopped_since(path: Path, began: datetime) -> str:
    """Why the last training in a run, since then, was told to stop, and did so with a step to go on from; empty where
    it ended otherwise.
    """
    with suppress(KeepstepError, OSError):
        run = open_run(path)
        if run.managed:
            ends = [event for event in run.events.read() if event["event"] in ("resumed", "committed", "preempted")]
            if ends and ends[-1]["event"] == "preempted" and datetime.fromisoformat(str(ends[-1]["time"])) >= began:
                return str(ends[-1].get("why") or "no reason is said")
    return ""


def before_newest(path: Path) -> Checkpoint | None:
    """The checkpoint that a run would go back to; None where there is none to go back to."""
    with suppress(KeepstepError, OSError):
        run = open_run(path)
        resumable = [one for one in run.checkpoints if one.resumable]
        return resumable[-2] if run.managed and len(resumable) > 1 else None
    return None


def go_back(path: Path) -> Checkpoint:
    """Set the newest checkpoint of a run aside, on a timeline of its own; returns the one before, which is the newest
    now. Raises KeepstepError, OSError.
    """
    target = before_newest(path)
    if target is None:
        raise KeepstepError(f"{path} has no checkpoint before its newest")
    with Run.open(path).writing() as run:
        run.rewind(run.find(f"gen:{target.generation}"))
    return target
