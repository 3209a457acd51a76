"""What a checkpoint is, as plain frozen values without any I/O."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import Any

FULL_PREFIX = "checkpoint-"
"""Directory prefix of resumable checkpoints; stock tools look for it."""
WEIGHTS_PREFIX = "weights-"
"""Directory prefix of weights-only checkpoints; stock tools can't take one for a resume point."""


class Kind(StrEnum):
    """What a checkpoint holds: everything a resume needs, or weights alone."""

    FULL = "full"
    WEIGHTS = "weights"


class State(StrEnum):
    """Where a checkpoint stands in its run."""

    COMMITTED = "committed"
    SET_ASIDE = "set aside"
    QUARANTINED = "quarantined"


@dataclass(frozen=True, slots=True)
class FileEntry:
    """One file of a checkpoint: POSIX path relative to it, size in bytes, `xxh3-128:<hex>` digest."""

    path: str
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One committed checkpoint.

    `generation` counts commits of the run and orders them; `timeline` counts rewinds; `parent` is the
    generation that training continued from (None for the first). `created` is UTC. `metrics` holds what was
    known at the commit joined with what arrived later. `path` is where it lies now (None: not on disk) and is
    no part of the manifest, so that a run can be moved.
    """

    run_id: str
    generation: int
    timeline: int
    parent: int | None
    step: int
    epoch: float | None
    kind: Kind
    created: datetime
    metrics: Mapping[str, float]
    files: tuple[FileEntry, ...]
    written_by: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: Mapping[str, Any] = field(default_factory=dict[str, Any])
    state: State = State.COMMITTED
    path: Path | None = None

    @property
    def name(self) -> str:
        """Directory name: `checkpoint-<step>` or `weights-<step>`."""
        return f"{FULL_PREFIX if self.kind is Kind.FULL else WEIGHTS_PREFIX}{self.step}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum(entry.size for entry in self.files)

    @property
    def resumable(self) -> bool:
        """True when it holds everything a resume needs and stands in the current timeline."""
        return self.kind is Kind.FULL and self.state is State.COMMITTED

    def with_metrics(self, late: Mapping[str, float]) -> Checkpoint:
        """The same checkpoint with metrics that became known after its commit."""
        return replace(self, metrics={**self.metrics, **late}) if late else self


def parse_name(name: str) -> tuple[Kind, int] | None:
    """Kind and step of a checkpoint directory name, None when the name is not exactly one of ours."""
    for prefix, kind in ((FULL_PREFIX, Kind.FULL), (WEIGHTS_PREFIX, Kind.WEIGHTS)):
        digits = name.removeprefix(prefix)
        if digits != name and digits.isascii() and digits.isdigit() and str(int(digits)) == digits:
            return kind, int(digits)
    return None
