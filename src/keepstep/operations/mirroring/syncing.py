"""Sending a mirror what it lacks, and removing there what its policy drops."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, KeepstepError, RunLocked
from keepstep.mirror import (
    CommitName,
    Mirror,
    NotesSender,
    OnBytes,
    Pace,
    Progress,
    Record,
    RecordCache,
    Writer,
    drop,
    orphans,
    push,
    settle,
    thin,
)
from keepstep.model import Checkpoint, State
from keepstep.operations.mirroring.plan import MirrorPlan, plan_mirror
from keepstep.retention import Decision, Policy
from keepstep.run import EventLog, MirrorNotes, Pins, Run, read_note
from keepstep.stores import Store

JOBS = 4


@dataclass(frozen=True, slots=True)
class Synced:
    """What was sent, what could not be and why, what was removed and thinned there, and the bytes of what killed
    writers had left; `exclusive` is False where the place can't keep two writers apart.
    """

    sent: tuple[Record, ...]
    failed: tuple[tuple[Checkpoint, str], ...]
    dropped: tuple[Record, ...]
    thinned: tuple[Record, ...]
    swept_bytes: int
    exclusive: bool

    def to_json(self) -> dict[str, Any]:
        return {
            "sent": [row(record) for record in self.sent],
            "failed": [{"step": c.step, "generation": c.generation, "why": why} for c, why in self.failed],
            "dropped": [row(record) for record in self.dropped],
            "thinned": [row(record) for record in self.thinned],
            "swept_bytes": self.swept_bytes,
            "exclusive": self.exclusive,
        }


def row(record: Record) -> dict[str, Any]:
    """A commit of a mirror as JSON."""
    checkpoint = record.checkpoint
    return {
        "step": checkpoint.step, "generation": checkpoint.generation, "kind": checkpoint.kind.value,
        "size_bytes": checkpoint.size_bytes, "created": checkpoint.created.isoformat(),
        "metrics": dict(checkpoint.metrics), "key": record.key, "data": record.home,
    }  # fmt: skip


class Sender:
    """One process's way of sending to a mirror: `refused` are generations that were damaged here, or went away."""

    def __init__(
        self,
        writer: Writer,
        store: Store,
        events: EventLog,
        *,
        jobs: int = JOBS,
        pace: Pace | None = None,
        on_bytes: OnBytes | None = None,
        note: MirrorNotes | None = None,
    ) -> None:
        self.writer = writer
        self.refused: dict[int, str] = {}
        self._events = events
        self._progress = Progress(store, writer.mirror.url)
        self._notes = NotesSender(writer, store)
        writer.mirror.remember(RecordCache.of_run(store, writer.mirror.url))
        self._note = note
        self._on_bytes = on_bytes
        self._how: dict[str, Any] = {"jobs": jobs, "pace": pace, "on_bytes": self._heard}

    def send(self, run: Run, decision: Decision) -> Record | None:
        """Send what a plan keeps of one checkpoint; None where that can't be. Raises MirrorOfAnother,
        MirrorUnavailable.
        """
        checkpoint, left = decision.checkpoint, decision.left
        if left is None:
            return None
        if self._note is not None:
            self._note.sends(left)
        try:
            with run.readers.reading([checkpoint.generation], "being mirrored"):
                record = push(self.writer, run.store, left, run.repository.key(checkpoint), self._progress, **self._how)
        except (CheckpointCorrupt, CheckpointNotFound) as error:
            self.refused[checkpoint.generation] = error.message
            self._events.append("not_mirrored", step=left.step, generation=left.generation, why=error.message)
            if self._note is not None:
                self._note.left_out()
            return None
        if self._note is not None:
            self._note.arrived(left)
        self._events.append("mirrored", **self._said(record))
        return record

    def tell(self, run: Run) -> None:
        """Send late metrics, pins and tags, where they are others than those that are there. Raises MirrorOfAnother,
        MirrorUnavailable.
        """
        self._notes.send(_pins(run))

    def tidy(self, run: Run, policy: Policy) -> tuple[tuple[Record, ...], tuple[Record, ...]]:
        """Drop and thin what the policy says of what is in the mirror now, whatever could not be sent; returns both."""
        mirror = self.writer.mirror
        records = mirror.records()
        aside = frozenset(c.generation for c in run.aside if c.state is State.SET_ASIDE)
        here = tuple(r for r in records if r.name.generation not in aside)
        found = plan_mirror(
            None, mirror, here, policy, late=run.events.late_metrics(),
            evaluated_later=run.evaluated_later(policy.metric),
        )  # fmt: skip
        newest = max((r.name.generation for r in records if r.name.generation not in aside), default=0)
        # What a rewind has left goes once there is something newer to resume from.
        left = tuple(r for r in records if r.name.generation in aside and r.name.generation < newest)
        held = run.pins.held
        dropped = tuple(record for record in (*found.drop, *left) if record.name.generation not in held)
        settle(self.writer)
        drop(self.writer, dropped, lambda record: self._events.append("unmirrored", **self._said(record)))
        if self._note is not None:
            self._note.removed(record.name.generation for record in dropped)
        return dropped, tuple(thin(self.writer, r) for r in found.thin if r.name.generation not in held)

    def _heard(self, count: int) -> None:
        if self._on_bytes is not None:
            self._on_bytes(count)
        if self._note is not None:
            self._note.advance(count)

    def _said(self, record: Record) -> dict[str, Any]:
        checkpoint = record.checkpoint
        said = {"step": checkpoint.step, "generation": checkpoint.generation, "size_bytes": checkpoint.size_bytes}
        return {**said, "url": self.writer.mirror.url}


def _pins(run: Run) -> Pins | None:
    """What is pinned; None where the file of it is damaged: a guess would unpin."""
    try:
        return run.pins
    except KeepstepError:
        return None


def sync(
    run: Run,
    mirror: Mirror,
    policy: Policy,
    plan: MirrorPlan,
    *,
    on_start: Callable[[str], None] | None = None,
    **how: Any,
) -> Synced:
    """Carry a plan out: newest first, then what the policy drops of what is there by then. `how` is for a `Sender`.

    One that is damaged here, or went away, is passed over and told. Raises RunLocked beside a training that sends
    there by itself: this claim would end its own. MirrorOfAnother, MirrorUnavailable.
    """
    _leave_to_training(run, mirror)
    writer = Writer.claim(mirror, run.id)
    note = _note_of(run, mirror)
    if note is not None:
        note.looked((record.checkpoint for record in plan.there), plan.wanted)
    sender = Sender(writer, run.store, run.events, note=note, **how)
    sent: list[Record] = []
    with run.readers.reading([d.checkpoint.generation for d in plan.push], "being mirrored"):
        for decision in plan.push:
            if on_start is not None:
                on_start(decision.checkpoint.name)
            if (record := sender.send(run, decision)) is not None:
                sent.append(record)
    here = {d.checkpoint.generation: d.checkpoint for d in plan.push}
    failed = tuple((here[generation], why) for generation, why in sender.refused.items())
    sender.tell(run)
    dropped, thinned = sender.tidy(run, policy)
    return Synced(tuple(sent), failed, dropped, thinned, _swept(writer), writer.exclusive)


def _note_of(run: Run, mirror: Mirror) -> MirrorNotes | None:
    """What a run knows of this mirror is noted, unless a training sends to another one."""
    known = read_note(run.store)
    theirs = known is not None and known.url != mirror.url and run.lock.in_use
    if theirs:
        return None
    note = MirrorNotes(run.store, mirror.url, run.id)
    note.begin()
    return note


def _leave_to_training(run: Run, mirror: Mirror) -> None:
    note = read_note(run.store)
    if note is None or (note.url, note.run_id) != (mirror.url, run.id) or note.lost or not note.serves(run.lock):
        return
    raise RunLocked(
        f"the training of {run.path} sends to {mirror.url} by itself, and a sync would end that for good",
        hint=f"How far it is: keepstep status {run.path}. Where it is stuck, stop the training (keepstep stop "
        f"{run.path}), and sync then. A mirror at another address can be synced meanwhile.",
    )


def prune(mirror: Mirror, plan: MirrorPlan) -> Synced:
    """Carry out what a plan drops and thins in a mirror whose run need not be here. Raises MirrorOfAnother."""
    writer = Writer.claim(mirror, mirror.run_id())
    settle(writer)
    drop(writer, plan.drop)
    thinned = tuple(thin(writer, record) for record in plan.thin)
    return Synced((), (), plan.drop, thinned, _swept(writer), writer.exclusive)


def forget(mirror: Mirror, records: Iterable[Record], unread: Iterable[CommitName] = ()) -> None:
    """Remove commits whose bytes, or whose records, are damaged there, so that the next sync sends them anew."""
    writer = Writer.claim(mirror, mirror.run_id())
    drop(writer, tuple(records))
    mirror.objects.delete([name.key for name in unread])


def _swept(writer: Writer) -> int:
    """Remove what killed writers left; returns its bytes."""
    found = orphans(writer, writer.mirror.records())
    for orphan in found:
        writer.mirror.objects.delete(orphan.keys)
    return sum(orphan.size_bytes for orphan in found)
