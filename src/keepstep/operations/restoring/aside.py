"""What of a run could be brought back: abandoned timelines, quarantine, previous runs, and what the trash still has."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from keepstep import layout
from keepstep.model import Checkpoint, State
from keepstep.run import Run, trashed


@dataclass(frozen=True, slots=True)
class Part:
    """Checkpoints that lie aside together, and the reference that brings them back; "" where nothing does."""

    what: str
    reference: str
    checkpoints: tuple[Checkpoint, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of all of them."""
        return sum(checkpoint.size_bytes for checkpoint in self.checkpoints)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "what": self.what,
            "reference": self.reference or None,
            "steps": [checkpoint.step for checkpoint in self.checkpoints],
            "generations": [checkpoint.generation for checkpoint in self.checkpoints],
            "size_bytes": self.size_bytes,
        }


@dataclass(frozen=True, slots=True)
class Aside:
    """All that lies aside, and directories in the trash of which only a rest is left: nothing says what it was."""

    parts: tuple[Part, ...]
    rests: tuple[Path, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines."""
        return {"parts": [part.to_json() for part in self.parts], "rests": [str(path) for path in self.rests]}


def lying_aside(run: Run) -> Aside:
    """What could be brought back; nothing is verified, and nothing changed."""
    whole, rests = trashed(run)
    return Aside((*_timelines(run), *_quarantine(run), *_previous(run), *_trash(whole)), rests)


def _timelines(run: Run) -> Iterator[Part]:
    found: dict[str, list[Checkpoint]] = {}
    home = run.path / layout.TIMELINES
    for checkpoint in run.aside:
        if checkpoint.state is State.SET_ASIDE and checkpoint.path is not None:
            found.setdefault(checkpoint.path.relative_to(home).parts[0], []).append(checkpoint)
    for name in sorted(found, key=lambda name: (not name.isdigit(), len(name), name)):
        reference = f"--timeline {name}" if name.isdigit() else ""
        yield Part(f"timeline {name}, set aside by a rewind", reference, tuple(found[name]))


def _quarantine(run: Run) -> Iterator[Part]:
    for checkpoint in run.aside:
        if checkpoint.state is State.QUARANTINED:
            yield Part("in quarantine", f"gen:{checkpoint.generation}", (checkpoint,))


def _previous(run: Run) -> Iterator[Part]:
    for previous in run.previous_runs.runs:
        yield Part("a previous run", f"previous:{previous.name}", previous.checkpoints)


def _trash(whole: tuple[Checkpoint, ...]) -> Iterator[Part]:
    for checkpoint in whole:
        yield Part("in the trash, until the next start", f"gen:{checkpoint.generation}", (checkpoint,))
