"""How far a run's mirror is behind, told from the run's own files: nothing is asked of the mirror."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from keepstep.model import Checkpoint, State
from keepstep.run import MirrorNote, Run, read_note
from keepstep.units import format_duration, format_size

DOWN_LONG, BEHIND_LONG = 600.0, 3600.0
"""Seconds after which a mirror that does not answer, and one that lags, is worth a warning."""


class Standing(StrEnum):
    """How a mirror stands: `whole` lacks nothing, `behind` does, and is `sending` while one is on its way there.

    A mirror that is `down` does not answer, and is tried again; to one that is `lost` nothing goes any more.
    """

    WHOLE = "whole"
    BEHIND = "behind"
    SENDING = "sending"
    DOWN = "down"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What is known of a run's mirror; times in seconds since the epoch, `now` when this was found.

    `waiting` are those here that it is to have and lacks, newest first, `waiting_bytes` what goes there of them.
    `path` is the run's, `trains` is True while a training holds it, `serves` while that training sends.
    """

    path: Path
    note: MirrorNote
    standing: Standing
    waiting: tuple[Checkpoint, ...]
    waiting_bytes: int
    now: float
    trains: bool
    serves: bool

    @property
    def lag(self) -> float:
        """Seconds of training that would be lost with this disk: since the newest that is whole there was saved, since
        the first one that waits where there is none, 0 where nothing newer waits.
        """
        since = min((one.created.timestamp() for one in self._newer), default=self.now)
        if self._newer and self.note.newest is not None:
            since = self.note.newest.created
        return max(0.0, self.now - since)

    @property
    def lag_steps(self) -> int:
        """Steps between the newest there and the newest here."""
        newest = self.note.newest
        return max((one.step for one in self._newer), default=0) - (newest.step if newest and self._newer else 0)

    @property
    def waits(self) -> float:
        """Seconds since the first of what is waiting was saved."""
        return max(0.0, self.now - min((one.created.timestamp() for one in self.waiting), default=self.now))

    @property
    def left(self) -> float | None:
        """Seconds until nothing is waiting, at the speed so far; None where nothing is on its way."""
        rate = self.note.rate
        return self.waiting_bytes / rate if self.standing is Standing.SENDING and rate else None

    @property
    def up(self) -> bool:
        """False where it did not answer the last time, and where nothing goes there any more."""
        return not self.note.trouble

    @property
    def trouble_seconds(self) -> float:
        """Since when it does not answer, 0 where it does."""
        return 0.0 if self.note.trouble_since is None else max(0.0, self.now - self.note.trouble_since)

    @property
    def problem(self) -> str:
        """What is wrong with it for so long that somebody has to know; empty where nothing is."""
        if self.note.lost:
            return f"nothing goes to {self.note.url} any more: {self.note.trouble}"
        if self.note.trouble and self.trouble_seconds >= DOWN_LONG:
            return f"{self.text}"
        if self.waiting and not self.serves:
            who = "this training does not mirror" if self.trains else "nobody trains"
            return f"{who}, and {self.note.url} lacks {self._waiting()}; send it with: {self.way}"
        return self.text if self.waiting and self.waits >= BEHIND_LONG else ""

    @property
    def way(self) -> str:
        """The command that sends what is waiting, and removes nothing that the mirror is to keep."""
        keep = [] if self.note.keep is None else ["--keep", self.note.keep]
        return f"keepstep mirror sync {shlex.join([str(self.path), self.note.url, *keep])}"

    @property
    def text(self) -> str:
        """The same in a sentence."""
        note, url = self.note, self.note.url
        if self.standing is Standing.WHOLE:
            newest = f", the newest step {note.newest.step:,}" if note.newest else ""
            return f"{url} lacks nothing{newest}"
        there = f"the newest there is step {note.newest.step:,}" if note.newest else "nothing there can be resumed from"
        if note.newest and self._newer:
            there += f", {format_duration(self.lag)} old"
        if self.standing is Standing.LOST:
            return f"nothing goes to {url} any more: {note.trouble}; {there}"
        if self.standing is Standing.DOWN:
            since = format_duration(self.trouble_seconds)
            return f"{url} has not answered for {since} ({note.trouble}); {self._waiting()} waiting; {there}"
        if self.standing is Standing.SENDING and note.sending is not None:
            sending = note.sending
            speed = f" at {format_size(int(note.rate))}/s" if note.rate else ""
            done = f"{format_size(sending.sent_bytes)} of {format_size(sending.size_bytes)}{speed}"
            end = f", {format_duration(self.left)} left for all" if self.left is not None else ""
            return f"step {sending.step:,} is on its way to {url}: {done}{end}; {there}"
        return f"{self._waiting()} waiting for {url}; {there}"

    @property
    def _newer(self) -> tuple[Checkpoint, ...]:
        """What is waiting and newer than all that can be resumed from there."""
        newest = self.note.newest
        return tuple(c for c in self.waiting if c.resumable and (newest is None or c.generation > newest.generation))

    def _waiting(self) -> str:
        number = len(self.waiting)
        return f"{number} checkpoint{'' if number == 1 else 's'} ({format_size(self.waiting_bytes)})"

    def place_of(self, checkpoint: Checkpoint) -> str:
        """Where one checkpoint is, in words."""
        if checkpoint.generation in self.note.there:
            return f"it is in the mirror {self.note.url}"
        if any(one.generation == checkpoint.generation for one in self.waiting):
            return f"it waits to go to {self.note.url}"
        return f"it is not in the mirror {self.note.url}"

    def to_json(self) -> dict[str, Any]:
        """Plain values: bytes, seconds, times in seconds since the epoch."""
        note, sending = self.note, self.note.sending if self.standing is Standing.SENDING else None
        return {
            "url": note.url,
            "standing": self.standing.value,
            "text": self.text,
            "checkpoints": len(note.there),
            "newest_step": None if note.newest is None else note.newest.step,
            "waiting": len(self.waiting),
            "waiting_bytes": self.waiting_bytes,
            "lag_seconds": round(self.lag, 3),
            "lag_steps": self.lag_steps,
            "bytes_per_second": note.rate,
            "left_seconds": self.left,
            "sending": sending
            and {"step": sending.step, "size_bytes": sending.size_bytes, "sent_bytes": sending.sent_bytes},
            "last_arrival": note.arrived,
            "up": self.up,
            "trouble": note.trouble,
            "trouble_since": note.trouble_since,
        }


def mirrored_of(
    run: Run, checkpoints: Sequence[Checkpoint], *, alive: bool, serves: bool | None = None
) -> Mirrored | None:
    """How the mirror stands that the run goes to, of the checkpoints that are here; None for a run without one.

    `alive` says that a training holds the run, `serves` that it sends (None: as the note says). The newest of
    what is here is always wanted there.
    """
    note = read_note(run.store)
    if note is None or note.run_id != run.id:
        return None
    waiting = [
        c
        for c in reversed(checkpoints)
        if c.state is State.COMMITTED
        and not (c.damage or c.lost)
        and c.generation not in note.there
        and note.wanted.get(c.generation, c.size_bytes)
    ]
    serves = alive and note.owner == run.lock.owner() if serves is None else serves
    sending = note.sending if serves else None
    size = sum(note.wanted.get(c.generation, c.size_bytes) for c in waiting)
    if sending is not None and any(c.generation == sending.generation for c in waiting):
        size = max(0, size - sending.sent_bytes)
    standing = Standing.WHOLE
    if note.lost:
        standing = Standing.LOST
    elif note.trouble:
        standing = Standing.DOWN
    elif sending is not None:
        standing = Standing.SENDING
    elif waiting:
        standing = Standing.BEHIND
    return Mirrored(run.path, note, standing, tuple(waiting), size, time.time(), alive, serves)
