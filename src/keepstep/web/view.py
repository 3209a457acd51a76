"""One run as the page sees it: opened once, read in a thread of its own, answered again while nothing changed."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from keepstep import layout
from keepstep.errors import KeepstepError, RunNotFound
from keepstep.model import Checkpoint
from keepstep.operations.doctor import Severity, examine_run
from keepstep.operations.seeing.chronicle import Chronicle
from keepstep.operations.seeing.curves import CurveReader
from keepstep.operations.seeing.overview import in_flight, is_training
from keepstep.run import History, Run, holds_run, open_run
from keepstep.stores import LocalStore, Stamp
from keepstep.web.answers import Packed, as_error, encode
from keepstep.web.lane import PATIENCE_SECONDS, Lane

T = TypeVar("T")

SETTLED_NS = 2 * 10**9
"""Age from which a change is told by a file's times: a younger one may share them with the next change."""
LONGEST_SECONDS = 30.0
"""How long an answer is given again at most: rules that count hours, and free space, change without a file's doing."""
MOST_ANSWERS = 64
"""Answers that are remembered of one run."""

PARTS = {
    "checkpoints": ("", layout.PINS, layout.RUN),
    "events": (layout.EVENTS,),
    "curves": (layout.METRICS,),
    "in_flight": (layout.STAGING, layout.OWNER),
    "mirror": (layout.MIRROR_NOTE,),
}
"""What can change in a run, and the names below it by whose times that is seen."""

Stamps = dict[str, tuple[object, ...]]
"""By part, what the file system shows of it: equal while nothing changed."""


@dataclass(frozen=True, slots=True)
class _Known:
    stamps: Stamps
    read: float
    packed: Packed


class Opened:
    """A run that is open, with what is kept between two looks at it."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.chronicle = Chronicle(run)
        self.curves = CurveReader(run)
        self._findings: tuple[int | None, dict[str, int]] | None = None

    def findings(self, checkpoints: Sequence[Checkpoint]) -> dict[str, int]:
        """How many of each severity doctor finds; what it judges is the newest checkpoint's and the run file's."""
        generation = checkpoints[-1].generation if checkpoints else None
        if self._findings is None or self._findings[0] != generation:
            report = examine_run(self.run)
            self._findings = generation, {severity.value: report.count(severity) for severity in Severity}
        return self._findings[1]


class RunView:
    """One run under its key. Everything that touches the disk happens in the run's own thread."""

    def __init__(self, path: Path, name: str) -> None:
        self.path = path
        self.name = name
        self.key = hashlib.blake2s(os.fsencode(path), digest_size=6).hexdigest()
        self.lane = Lane(str(path))
        self.store = LocalStore(path)
        self.followed = History(self.store)
        """Where the log of metrics was read to by who follows the run: kept, so that nobody begins anew."""
        self._opened: tuple[Stamp | None, Opened] | None = None
        self._known: dict[object, _Known] = {}

    async def read(self, function: Callable[[Opened], T], patience: float = PATIENCE_SECONDS) -> T:
        """What `function` finds in the run. Raises KeepstepError, NoAnswer included."""
        return await self.lane.call(lambda: self._read(function), patience)

    async def packed(
        self, what: object, function: Callable[[Opened], object], patience: float = PATIENCE_SECONDS
    ) -> Packed:
        """The JSON of what `function` finds, from before where nothing in the run changed since.

        `what` names the question with all its arguments. Raises KeepstepError.
        """
        return await self.lane.call(lambda: self._packed(what, function), patience)

    def stamps(self) -> Stamps:
        """The run's parts as the file system shows them now, cheaply. For the run's thread. Raises KeepstepError."""
        try:
            stamps: Stamps = {part: tuple(map(self.store.stamp, names)) for part, names in PARTS.items()}
            # A training that is killed changes no file, and a save in flight changes those below its own directory.
            if stamps["in_flight"] != (None, None) and self._opened is not None:
                flying = in_flight(self._opened[1].run)
                stamps["in_flight"] += (is_training(self._opened[1].run), flying and flying.bytes)
        except OSError as error:
            raise as_error(error) from error
        return stamps

    @property
    def present(self) -> bool:
        """True while there is a run. Called in the run's thread."""
        return holds_run(self.path)

    def _packed(self, what: object, function: Callable[[Opened], object]) -> Packed:
        stamps = self.stamps()
        known = self._known.get(what)
        if known is not None and known.stamps == stamps and time.monotonic() - known.read < LONGEST_SECONDS:
            return known.packed
        began = time.time_ns()
        packed = Packed.of(encode(self._read(function)))
        if _settled(stamps, began):
            self._known.pop(what, None)
            while len(self._known) >= MOST_ANSWERS:
                del self._known[next(iter(self._known))]
            self._known[what] = _Known(stamps, time.monotonic(), packed)
        return packed

    def _read(self, function: Callable[[Opened], T]) -> T:
        try:
            return function(self._open())
        except KeepstepError:
            raise
        except OSError as error:
            raise as_error(error) from error

    def _open(self) -> Opened:
        """The run, opened anew where its run.json is another: it was replaced, or has another policy; and where it has
        none, whenever anything comes or goes in its directory.

        A link that took the place of the run, or of keepstep's directory in it, is not followed.
        """
        if os.path.realpath(self.path / layout.META) != os.fspath(self.path / layout.META):
            self._opened = None
            raise RunNotFound(f"{self.path} is no run any more: a link stands in its place")
        stamp = self.store.stamp(layout.RUN) or self.store.stamp("")
        if self._opened is None or stamp is None or self._opened[0] != stamp:
            self._opened = None
            self._opened = (stamp, Opened(open_run(self.path)))
        return self._opened[1]


def _settled(stamps: Stamps, now: int) -> bool:
    changes = [stamp.changed_ns for part in stamps.values() for stamp in part if isinstance(stamp, Stamp)]
    return max(changes, default=0) < now - SETTLED_NS
