"""What supervised processes have told: which of them train, how far they are, and why they ended."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from keepstep.supervision.boot import keepstep_marks as told

BOOT = Path(told.__file__).parent
"""The directory that a child's PYTHONPATH begins with."""


@dataclass(frozen=True, slots=True)
class Attached:
    """A process that trains: where to, and whether keepstep manages it; `why` not."""

    pid: int
    directory: str | None
    managed: bool
    why: str
    dump_signal: int | None


@dataclass(frozen=True, slots=True)
class Beat:
    """How far a process is: step, phase, and the monotonic time of its last sign of life, seconds."""

    pid: int
    step: int
    phase: int
    at: float

    @property
    def has_begun(self) -> bool:
        """True once `train()` has found where it begins, and until it is over or longer."""
        return self.phase != told.STARTING


@dataclass(frozen=True, slots=True)
class End:
    """An exception that ended a training, or a process; `last` is its last frame, `trace` the end of its traceback."""

    pid: int
    rank: str | None
    time: float
    type: str
    bases: tuple[str, ...]
    text: str
    errno: int | None
    code: Any
    last: str | None
    files: tuple[str, ...]
    trace: str
    step: int | None
    thread: bool


class Marks:
    """The marks of one attempt, in a directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def attached(self) -> list[Attached]:
        """Who trains, or has."""
        return [
            Attached(
                one["pid"], one.get("output_dir"), bool(one.get("managed")), one.get("why", ""), one.get("dump_signal")
            )
            for one in self._records("attached")
        ]

    def ends(self) -> list[End]:
        """Why processes ended, the earliest first: of several ranks it is the cause."""
        found: list[End] = []
        for one in self._records("end"):
            with suppress(KeyError, TypeError):
                lists = {name: tuple(one[name]) for name in ("bases", "files")}
                fields: dict[str, Any] = {name: one[name] for name in End.__slots__} | lists
                found.append(End(**fields))
        return sorted(found, key=lambda end: end.time)

    def beats(self) -> list[Beat]:
        """The last beat of each process that trains."""
        found: list[Beat] = []
        for file in self.directory.glob("beat-*"):
            with suppress(OSError, ValueError):
                data = file.read_bytes()
                if len(data) == told.BEAT.size and any(data):
                    step, phase, at = told.BEAT.unpack(data)
                    found.append(Beat(int(file.name.rpartition("-")[2]), step, phase, at))
        return found

    def dumps(self) -> dict[int, str]:
        """Stacks that were written, by process."""
        found: dict[int, str] = {}
        for file in self.directory.glob("dump-*"):
            with suppress(OSError, ValueError):
                text = file.read_text(encoding="utf-8", errors="replace").strip()
                if text:
                    found[int(file.name.rpartition("-")[2])] = text
        return found

    def _records(self, what: str) -> Iterator[dict[str, Any]]:
        for file in self.directory.glob(f"{what}-*.json"):
            with suppress(OSError, ValueError):
                record = json.loads(file.read_bytes())
                if isinstance(record, dict) and "pid" in record:
                    yield cast("dict[str, Any]", record)
