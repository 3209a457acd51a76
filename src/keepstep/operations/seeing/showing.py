"""One checkpoint in full, and what would have to happen before the policy removes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint, State
from keepstep.operations.seeing.certainty import how_sure
from keepstep.operations.seeing.listing import Row, list_checkpoints
from keepstep.operations.seeing.mirrored import Mirrored
from keepstep.operations.seeing.receipts import receipt_of, receipts
from keepstep.retention import (
    DAMAGED,
    Best,
    Certainty,
    Context,
    Daily,
    Hourly,
    Latest,
    Metric,
    Pending,
    Pinned,
    Policy,
    Rule,
    Within,
    rank,
)
from keepstep.run import Event, Reference, Run, way_back
from keepstep.stock import bytes_by_rank


@dataclass(frozen=True, slots=True)
class Details:
    """A checkpoint's row, its place (from 1) among those ranked, and the conditions of its removal.

    The policy removes it once all of `removed_by` have happened; empty: the next prune does. `receipt` is that of the
    last resume from it, as in the event log; None where there was none.
    """

    row: Row
    metric: Metric | None
    place: int | None
    ranked: int
    removed_by: tuple[str, ...]
    receipt: Event | None = None
    certainty: Certainty | None = None
    """How sure the run's best is, where this is it or can't be told from it; None with too few evaluations, too."""
    managed: bool = True
    mirror: Mirrored | None = None

    @property
    def ranks(self) -> dict[int, int]:
        """Bytes that each rank of a sharded training wrote; nothing where one process wrote all."""
        return bytes_by_rank({entry.path: entry.size for entry in self.row.checkpoint.files if not entry.by})

    def sure(self) -> str:
        """The same as a sentence, empty where nothing is known."""
        if self.certainty is None or self.place == 1:
            return self.certainty.describe() if self.certainty else ""
        return f"a tie with the best: {self.certainty.describe()}"

    def to_json(self) -> dict[str, Any]:
        """The row's plain values and the rest; sizes in bytes."""
        checkpoint = self.row.checkpoint
        return {
            **self.row.to_json(),
            "run_id": checkpoint.run_id,
            "metric": None if self.metric is None else {"name": self.metric.name, "mode": self.metric.mode},
            "rank": self.place,
            "certainty": self.certainty.to_json() if self.certainty else None,
            "removed_by": list(self.removed_by),
            "managed": self.managed,
            "receipt": self.receipt,
            "mirror": self.mirror
            and {"url": self.mirror.note.url, "has": checkpoint.generation in self.mirror.note.there},
            "files": [
                {"path": f.path, "size_bytes": f.size, "digest": f.digest, **({"by": f.by} if f.by else {})}
                for f in checkpoint.files
            ],
            "ranks": [{"rank": rank, "size_bytes": size} for rank, size in self.ranks.items()],
            "lost": list(checkpoint.lost),
            "written_by": dict(checkpoint.written_by),
            "fingerprint": dict(checkpoint.fingerprint),
        }


def show(run: Run, reference: Reference) -> Details:
    """The checkpoint that a reference names, wherever it lies. Raises CheckpointNotFound."""
    checkpoint = run.find(reference, aside=True)
    return (
        show_generation(run, checkpoint.generation) if checkpoint.state is State.COMMITTED else _aside(run, checkpoint)
    )


def show_generation(run: Run, generation: int, known: Sequence[Event] | None = None) -> Details:
    """The committed checkpoint of a generation; `known` are the run's receipts, where they have been read.

    Raises CheckpointNotFound.
    """
    listing = list_checkpoints(run)
    row = next((row for row in listing.rows if row.checkpoint.generation == generation), None)
    if row is None:
        raise CheckpointNotFound(f"{run.path} has no checkpoint of generation {generation} (any more)")
    checkpoints = tuple(row.checkpoint for row in listing.rows)
    metric = listing.metric
    ranked = rank(checkpoints, metric) if metric else ()
    place = next((place for place, c in enumerate(ranked, start=1) if c.generation == generation), None)
    later = run.evaluated_later(metric)
    context = Context(checkpoints, metric, datetime.now(UTC), run.pins.held, later)
    removed_by = what_removes(row, listing.policy, context) if row.keep and run.managed else ()
    sure = how_sure(run, ranked) if place else None
    if sure is not None and place != 1 and row.checkpoint.step not in sure.ties:
        sure = None
    receipt = receipt_of(receipts(run.events.read()) if known is None else known, row.checkpoint)
    return Details(row, metric, place, len(ranked), removed_by, receipt, sure, run.managed, listing.mirror)


def _aside(run: Run, checkpoint: Checkpoint) -> Details:
    """One that lies aside: nothing ranks it, and want of room or a person removes it."""
    rows = (row for row in list_checkpoints(run, aside=True).rows if row.checkpoint.state is not State.COMMITTED)
    row = next((row for row in rows if row.checkpoint.path == checkpoint.path), None)
    if row is None:
        raise CheckpointNotFound(f"{checkpoint.path} went away in this moment")
    unpinned = [f"unpinning it: keepstep unpin {run.path} {way_back(checkpoint)}"] if row.pinned else []
    removed_by = (*unpinned, f"want of room, or a person: keepstep prune {run.path} {_PRUNED_BY[checkpoint.state]}")
    return Details(row, run.whose(checkpoint).policy.metric, None, 0, removed_by)


_PRUNED_BY = {State.SET_ASIDE: "--aside", State.QUARANTINED: "--quarantined", State.PREVIOUS: "--previous"}


def what_removes(row: Row, policy: Policy, context: Context) -> tuple[str, ...]:
    """One condition for each ground that keeps a checkpoint; it goes when all of them are met."""
    checkpoint = row.checkpoint
    explained: set[str] = set()
    found: list[str] = []
    for rule in (*policy.in_force(context), Pinned()):
        reason = rule.keeps(context).get(checkpoint.generation)
        if reason is not None:
            explained.add(reason)
            found.append(_end_of(rule, checkpoint, context))
    if checkpoint.damage:
        explained.add(DAMAGED[checkpoint.damage])
        run = checkpoint.path.parent if checkpoint.path else "RUN"
        found.append(f"want of room, or a person: keepstep verify {run} {checkpoint.step} --quarantine moves it aside")
    if set(row.reasons) - explained:
        found.append(_end_of_protection(checkpoint))
    return tuple(dict.fromkeys(found))


def _end_of(rule: Rule, checkpoint: Checkpoint, context: Context) -> str:
    """What ends a rule's hold on a checkpoint."""
    match rule:
        case Best(k=k) if context.metric is not None:
            return _better_ones(k, checkpoint, context, context.metric)
        case Latest(n=n):
            newer = sum(c.saved_whole and c.generation > checkpoint.generation for c in context.checkpoints)
            return _count(n - newer, "newer full checkpoint")
        case Pending(seconds=seconds) if context.metric is not None:
            end = _after(checkpoint, seconds)
            return f"a value of {context.metric.name} that is not enough for another rule, or time alone: {end}"
        case Within() | Hourly() | Daily():
            return _end_in_time(rule, checkpoint, context)
        case Pinned():
            run = checkpoint.path.parent if checkpoint.path else "RUN"
            return f"unpinning it: keepstep unpin {run} {checkpoint.step}"
        case _:
            return f"a policy without {rule.spec()!r}: newer checkpoints don't change it"


def _end_in_time(rule: Within | Hourly | Daily, checkpoint: Checkpoint, context: Context) -> str:
    match rule:
        case Within(seconds=seconds):
            return f"time alone: {_after(checkpoint, seconds)}"
        case Hourly(n=n):
            return _newer_times(n, "hour", "%Y-%m-%d %H", checkpoint, context)
        case Daily(n=n):
            return _newer_times(n, "day", "%Y-%m-%d", checkpoint, context)


def _after(checkpoint: Checkpoint, seconds: int) -> str:
    return f"after {checkpoint.created.astimezone(UTC) + timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S} UTC"


def _better_ones(k: int, checkpoint: Checkpoint, context: Context, metric: Metric) -> str:
    place = [c.generation for c in rank(context.checkpoints, metric)].index(checkpoint.generation)
    value = metric.value(checkpoint.metrics)
    # A newer one of equal value ranks behind it.
    bound = "below" if metric.mode == "min" else "above"
    return f"{_count(k - place, 'newer checkpoint')} with {metric.name} {bound} {value:.6g}"


def _newer_times(n: int, unit: str, bucket: str, checkpoint: Checkpoint, context: Context) -> str:
    def name(moment: datetime) -> str:
        return moment.astimezone(UTC).strftime(bucket)

    own = name(checkpoint.created)
    newer = {name(c.created) for c in context.checkpoints if c.generation > checkpoint.generation}
    more = f"newer checkpoints in {_count(n - len(newer - {own}), f'more {unit}')} (UTC)"
    return f"a newer checkpoint in this {unit} (UTC), or {more}" if own == name(context.now) else more


def _end_of_protection(checkpoint: Checkpoint) -> str:
    kind = "full checkpoint" if checkpoint.resumable else "checkpoint"
    return f"1 newer {kind} that takes its place as the newest"


def _count(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"
