"""The checkpoints of a directory that keepstep does not manage, as a repository that is only read."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from keepstep.model import Checkpoint, Damage, parse_name
from keepstep.repository import Foreign, Listing, OnBytes, Problem, Repository, Verification
from keepstep.stock.contents import Contents, Verdict, ended_ns, examine, lacking, unread
from keepstep.stock.course import Courses, Saved, courses
from keepstep.stock.layouts import Layout, other_layout
from keepstep.stores import Entry, LocalStore

UNMANAGED = "unmanaged"
"""What stands for the id of a run that has none."""
LOADER = "resumable for"
"""Member of a checkpoint's `written_by`: the loader that goes on from it."""
NOTES = "notes"


@dataclass(frozen=True, slots=True)
class _Known:
    """A checkpoint's contents and the verdict on them, for as long as both stay the same."""

    contents: Contents
    lacks: frozenset[str]
    ended_ns: int
    verdict: Verdict


class _Seen(NamedTuple):
    listing: Listing
    known: dict[str, _Known]
    courses: Courses


class StockRepository(Repository):
    """Reads a directory of stock checkpoints: their order is that of their courses, and none has a digest."""

    def __init__(self, store: LocalStore) -> None:
        super().__init__(store, UNMANAGED)
        self._known: dict[str, _Known] = {}
        self._seen: _Seen | None = None

    def listing(self) -> Listing:
        """The checkpoints in the order of their courses, torn ones with their damage; others' only by name."""
        return self._look().listing

    def verdict(self, checkpoint: Checkpoint) -> Verdict | None:
        """What the structure of a checkpoint said at the last look."""
        known = self._known.get(checkpoint.path.name) if checkpoint.path else None
        return known.verdict if known else None

    def courses(self) -> Courses:
        """Which checkpoints are of the present course, by the names of their directories."""
        return (self._seen or self._look()).courses

    def verify(
        self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None, *, alone: Collection[str] | None = None
    ) -> Verification:
        """Its structure, and each checksum that its files, or these `alone`, carry; digests there are none."""
        return self._check(checkpoint, deep=alone, on_bytes=on_bytes)

    def examine(self, checkpoint: Checkpoint) -> Verification:
        """Its structure alone."""
        return self._check(checkpoint)

    def lacking(self, checkpoint: Checkpoint) -> tuple[str, ...]:
        """Nothing beyond what the listing says."""
        return ()

    def aside(self) -> tuple[Checkpoint, ...]:
        """Nothing: only a run that is managed sets aside."""
        return ()

    def added(self, checkpoint: Checkpoint) -> list[Entry]:
        """Nothing: without a manifest all that lies there is the checkpoint."""
        return []

    def committed(self, name: str) -> Checkpoint | None:
        """The checkpoint in the directory of that name."""
        return next((c for c in self.listing().checkpoints if c.path and c.path.name == name), None)

    def stands(self, checkpoint: Checkpoint) -> bool:
        """True while its directory is there and of the step that it was."""
        try:
            return self.store.exists(self.key(checkpoint)) and self._ended(checkpoint) == checkpoint.created
        except ValueError:
            return False

    def _ended(self, checkpoint: Checkpoint) -> datetime:
        return _moment(ended_ns(self.store.local_path(self.key(checkpoint))))

    def _check(
        self, checkpoint: Checkpoint, *, deep: Collection[str] | None = (), on_bytes: OnBytes | None = None
    ) -> Verification:
        known = self._known.get(self.key(checkpoint))
        lacks = known.lacks if known else frozenset[str]()
        try:
            contents = self._contents(self.key(checkpoint), checkpoint.step)
            problems = examine(contents, lacks=lacks, deep=deep, on_bytes=on_bytes).problems
        except OSError as error:
            problems = (_unread(self.store.local_path(self.key(checkpoint)), error),)
        return Verification(checkpoint, problems)

    def _contents(self, key: str, step: int) -> Contents:
        return Contents(self.store.local_path(key), step, tuple(self.store.walk(key)))

    def _look(self) -> _Seen:
        entries = self.store.list("")
        found: dict[str, Contents] = {}
        closed: dict[str, OSError] = {}
        foreign: list[Foreign] = []
        for entry in entries:
            parsed = parse_name(entry.path)
            if parsed is not None and entry.kind == "directory":
                try:
                    found[entry.path] = self._contents(entry.path, parsed[1])
                except OSError as error:
                    closed[entry.path] = error
                    found[entry.path] = Contents(self.store.local_path(entry.path), parsed[1], ())
            elif parsed is not None and entry.kind == "link":
                foreign.append(
                    Foreign(self.store.local_path(entry.path), "it is a link: what it leads to is elsewhere")
                )
            elif other := other_layout(entry.path):
                step = "" if other.step is None else f" of step {other.step}"
                foreign.append(
                    Foreign(self.store.local_path(entry.path), f"it is a checkpoint{step} of {other.writer}")
                )
        lacks = lacking({name: contents for name, contents in found.items() if name not in closed})
        known = {
            name: self._judged(name, contents, lacks.get(name, frozenset()), closed.get(name))
            for name, contents in found.items()
        }
        told = courses([Saved(name, k.contents.step, k.ended_ns, k.verdict.state) for name, k in known.items()])
        self._known = known
        checkpoints = tuple(self._checkpoint(name, place, told) for place, name in enumerate(told.order, start=1))
        self._seen = _Seen(Listing(checkpoints, tuple(foreign)), known, told)
        return self._seen

    def _judged(self, name: str, contents: Contents, lacks: frozenset[str], closed: OSError | None) -> _Known:
        ended = ended_ns(contents.path)
        if closed is not None:
            return _Known(contents, lacks, ended, Verdict((_unread(contents.path, closed),), (), (), Layout.TRAINER))
        before = self._known.get(name)
        if before and (before.contents, before.lacks, before.ended_ns) == (contents, lacks, ended):
            return before
        try:
            verdict = examine(contents, lacks=lacks)
        except OSError as error:
            verdict = Verdict((_unread(contents.path, error),), (), (), Layout.TRAINER)
        return _Known(contents, lacks, ended, verdict)

    def _checkpoint(self, name: str, place: int, told: Courses) -> Checkpoint:
        known = self._known[name]
        verdict, state = known.verdict, known.verdict.state
        parent = told.parents.get(name)
        kept = told.present if name in told.present else frozenset[str]()
        bare = Checkpoint(
            run_id=UNMANAGED,
            generation=place,
            timeline=2 if kept and len(kept) < len(told.order) else 1,
            parent=told.order.index(parent) + 1 if parent else None,
            step=known.contents.step,
            epoch=state.epoch if state else None,
            kind=verdict.kind,
            created=_moment(known.ended_ns),
            metrics=state.metrics() if state and state.step == known.contents.step else {},
            files=known.contents.files(),
            written_by={LOADER: verdict.layout.value} | ({NOTES: list(verdict.notes)} if verdict.notes else {}),
            path=known.contents.path,
            lost=verdict.lost,
        )
        verification = Verification(bare, verdict.problems)
        return bare.known(Damage.NONE if verification.sound else verification.damage)


def _unread(checkpoint: Path, error: OSError) -> Problem:
    """What of a checkpoint this user may not read, and why."""
    path = Path(os.fsdecode(error.filename)) if error.filename else checkpoint
    name = os.path.relpath(path, checkpoint) if path.is_relative_to(checkpoint) else "."
    return Problem(name, unread(checkpoint / name, error))


def _moment(ns: int) -> datetime:
    return datetime.fromtimestamp(ns / 1e9, UTC)
