"""What grew from what in a run: its course, what rewinds set aside, the runs before it, and those branched off it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keepstep.errors import KeepstepError
from keepstep.model import State
from keepstep.operations.seeing.listing import Row, list_checkpoints
from keepstep.retention import Metric
from keepstep.run import Event, Lineage, Origin, Run


@dataclass(frozen=True, slots=True)
class Offshoot:
    """A run that was branched off: from which generation, and what is in its directory now.

    `checkpoints` is None where it is not there any more; `newest` is its newest step.
    """

    run_id: str
    path: str
    step: int
    generation: int
    checkpoints: int | None
    newest: int | None

    def __str__(self) -> str:
        if self.checkpoints is None:
            return f"run {self.run_id} in {self.path}: not there any more"
        newest = "" if self.newest is None else f", the newest of step {self.newest}"
        many = "1 checkpoint" if self.checkpoints == 1 else f"{self.checkpoints} checkpoints"
        return f"run {self.run_id} in {self.path}: {many}{newest}"

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {
            "run_id": self.run_id,
            "path": self.path,
            "step": self.step,
            "generation": self.generation,
            "checkpoints": self.checkpoints,
            "newest_step": self.newest,
        }


@dataclass(frozen=True, slots=True)
class Grown:
    """A checkpoint, the generation of the last one before it that is still there (None: of none), and whether it is on
    the course that the run is on now.
    """

    row: Row
    grew_from: int | None
    on_course: bool

    def to_json(self) -> dict[str, Any]:
        """The row's plain values, and these."""
        row = self.row
        return {
            **row.to_json(), "best": row.best, "newest": row.newest, "grew_from": self.grew_from,
            "on_course": self.on_course,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Growth:
    """A run: its checkpoints wherever they lie, by generation, its offshoots, and the runs before it, grown likewise.

    `origin` is where it was branched off itself.
    """

    path: Path
    run_id: str
    metric: Metric | None
    origin: Origin | None
    checkpoints: tuple[Grown, ...]
    offshoots: tuple[Offshoot, ...]
    previous: tuple[Growth, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; previous runs nested."""
        return {
            "run": str(self.path),
            "run_id": self.run_id,
            "branched_from": msgspec.to_builtins(self.origin),
            "checkpoints": [one.to_json() for one in self.checkpoints],
            "branches": [one.to_json() for one in self.offshoots],
            "previous": [one.to_json() for one in self.previous],
        }


def growth_of(run: Run) -> Growth:
    """How a run has grown; nothing is verified."""
    rows = [row for row in list_checkpoints(run, aside=True).rows if row.checkpoint.state is not State.PREVIOUS]
    events = list(run.events.read())
    lineage = Lineage([row.checkpoint for row in rows], events)
    there = {row.checkpoint.generation for row in rows}
    newest = next((row.checkpoint for row in reversed(rows) if row.checkpoint.state is State.COMMITTED), None)
    course = lineage.course(newest) if newest else frozenset[int]()
    return Growth(
        run.path,
        run.id,
        run.policy.metric,
        run.file.branched,
        tuple(
            Grown(
                row,
                lineage.nearest(row.checkpoint, there),
                row.checkpoint.state is State.COMMITTED and row.checkpoint.generation in course,
            )
            for row in rows
        ),
        tuple(_offshoots(events)),
        tuple(growth_of(run.before(previous)) for previous in run.previous_runs.runs),
    )


def offshoots_of(run: Run, generation: int) -> tuple[Offshoot, ...]:
    """The runs that were branched off one checkpoint."""
    return tuple(one for one in _offshoots(run.events.read()) if one.generation == generation)


def _offshoots(events: Iterable[Event]) -> Iterator[Offshoot]:
    for event in events:
        match event:
            case {"event": "branched", "into_run": str(run_id), "path": str(path), "step": int(step),
                  "generation": int(generation)}:  # fmt: skip
                yield _offshoot(run_id, path, step, generation)
            case _:
                continue


def _offshoot(run_id: str, path: str, step: int, generation: int) -> Offshoot:
    try:
        found = Run.open(path)
        if found.id == run_id:
            checkpoints = found.checkpoints
            newest = checkpoints[-1].step if checkpoints else None
            return Offshoot(run_id, path, step, generation, len(checkpoints), newest)
    except (OSError, KeepstepError):
        pass
    return Offshoot(run_id, path, step, generation, None, None)
