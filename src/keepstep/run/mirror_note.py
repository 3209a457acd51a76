"""What a run knows of its mirror without asking it: noted by whoever sends, read by whoever looks on."""

from __future__ import annotations

import os
import threading
import time
import uuid
from collections.abc import Iterable, Mapping
from contextlib import suppress

import msgspec

from keepstep import layout
from keepstep.model import Checkpoint
from keepstep.run.lock import Owner, RunLock
from keepstep.stores import Store

EVERY = 1.0
"""Seconds between two notes of how far one is on its way."""


class Newest(msgspec.Struct, frozen=True):
    """The newest that can be resumed from and is whole in the mirror; `created` in seconds since the epoch."""

    step: int
    generation: int
    created: float


class OnItsWay(msgspec.Struct, frozen=True):
    """The one that is being sent: its bytes, those of them that are there, and since when."""

    step: int
    generation: int
    size_bytes: int
    sent_bytes: int
    since: float


class MirrorNote(msgspec.Struct, frozen=True):
    """How it stood at `time` (seconds since the epoch, as all times here).

    `there` are the generations that the mirror has, `wanted` the bytes that go there of others here, 0 where it is not
    to have one; what is younger than the last look at the mirror is in neither. `rate` is in bytes a second, of what
    was sent last. `trouble` says why nothing gets there, since `trouble_since`; `lost`, that nothing will any more.
    `keep` is what a training's mirror keeps, None where that is what the run keeps; `owner` held the run's lock when
    its training began to send, None where none does; `writer` is whoever began to note last.
    """

    url: str
    run_id: str
    time: float
    there: frozenset[int] = frozenset()
    wanted: dict[int, int] = {}
    newest: Newest | None = None
    sending: OnItsWay | None = None
    rate: float | None = None
    arrived: float | None = None
    trouble: str = ""
    trouble_since: float | None = None
    lost: bool = False
    keep: str | None = None
    owner: Owner | None = None
    writer: str = ""

    def serves(self, lock: RunLock) -> bool:
        """True while the training that holds the run's lock is the one that sends."""
        return lock.in_use and lock.owner() == self.owner


def read_note(store: Store) -> MirrorNote | None:
    """The note that lies there; None where there is none, or it can't be read."""
    try:
        return msgspec.json.decode(store.read(layout.MIRROR_NOTE, limit=layout.SMALL_FILE_LIMIT), type=MirrorNote)
    except (OSError, *layout.NOT_JSON):
        return None


class MirrorNotes:
    """Keeps the note of one mirror, from any thread. It never fails: what is only told must stop nothing.

    The last that begins writes; an earlier one is silent from then on, in whichever process.
    """

    def __init__(self, store: Store, url: str, run_id: str) -> None:
        self._store = store
        self._guard = threading.Lock()
        self._saved = 0.0
        self._writer = uuid.uuid4().hex[:12]
        self._muted = False
        known = read_note(store)
        if known is not None and (known.url, known.run_id) == (url, run_id):
            self.note = msgspec.structs.replace(known, sending=None, trouble="", trouble_since=None, lost=False)
        else:
            self.note = MirrorNote(url, run_id, time.time())

    def begin(self) -> None:
        """Something may be sent from now on, and no training does it."""
        self._change(writer=self._writer, owner=None)

    def begin_training(self, keep: str | None, owner: Owner | None) -> None:
        """The training of the process that holds the run's lock sends from now on what `keep` says."""
        self._change(writer=self._writer, keep=keep, owner=owner)

    def mute(self) -> None:
        """Write nothing any more: the note is another's from now on."""
        with self._guard:
            self._muted = True

    def looked(self, there: Iterable[Checkpoint], wanted: Mapping[int, int]) -> None:
        """The mirror was asked: what it has, newest first, and the bytes of those here that are to go there."""
        found = tuple(there)
        newest = next((_newest(one) for one in found if one.resumable), None)
        generations = frozenset(one.generation for one in found)
        if (generations, wanted, newest) != (self.note.there, self.note.wanted, self.note.newest):
            self._change(there=generations, wanted=dict(wanted), newest=newest)

    def sends(self, one: Checkpoint) -> None:
        """It is on its way."""
        self._change(sending=OnItsWay(one.step, one.generation, one.size_bytes, 0, time.time()))

    def advance(self, count: int) -> None:
        """So many more bytes of it are there."""
        with self._guard:
            sending = self.note.sending
            if sending is None:
                return
            sent = min(sending.size_bytes, sending.sent_bytes + count)  # a part that is sent again counts once
            spent = max(time.time() - sending.since, 1e-6)
            note = msgspec.structs.replace(sending, sent_bytes=sent)
            self.note = msgspec.structs.replace(self.note, sending=note, rate=sent / spent)
            due = time.monotonic() - self._saved >= EVERY
        if due:
            self._change()

    def arrived(self, one: Checkpoint) -> None:
        """It is there, whole."""
        newest = self.note.newest
        if one.resumable and (newest is None or one.generation > newest.generation):
            newest = _newest(one)
        self._change(there=self.note.there | {one.generation}, newest=newest, arrived=time.time(), sending=None)

    def left_out(self) -> None:
        """The one that was being sent is not: it is damaged here, or went away."""
        self._change(sending=None)

    def removed(self, generations: Iterable[int]) -> None:
        """They are not there any more."""
        if gone := self.note.there.intersection(generations):
            self._change(there=self.note.there - gone)

    def down(self, why: str, *, lost: bool = False) -> None:
        """Nothing gets there; with `lost` nothing will."""
        since = self.note.trouble_since or time.time()
        self._change(trouble=why, trouble_since=since, lost=lost, sending=None)

    def up(self) -> None:
        """It answers again."""
        self._change(trouble="", trouble_since=None)

    def _change(self, **fields: object) -> None:
        with self._guard:
            self.note = msgspec.structs.replace(self.note, time=time.time(), **fields)
            self._saved = time.monotonic()
            if self._muted or ("writer" not in fields and self._overtaken()):
                return
            with suppress(OSError, NotImplementedError):
                self._write(msgspec.json.encode(self.note))

    def _overtaken(self) -> bool:
        there = read_note(self._store) if self.note.writer == self._writer else None
        self._muted = there is not None and there.writer != self._writer
        return self._muted

    def _write(self, data: bytes) -> None:
        """In one step and without a wait for the disk: after a power cut it is looked for anew."""
        target = self._store.local_path(layout.MIRROR_NOTE)
        temporary = target.with_name(f".{target.name}.{self._writer}.tmp")
        temporary.write_bytes(data)
        os.replace(temporary, target)


def _newest(one: Checkpoint) -> Newest:
    return Newest(one.step, one.generation, one.created.timestamp())
