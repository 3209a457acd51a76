"""What a run directory shows: its checkpoints, best and latest, resume point, plan."""

from __future__ import annotations

from collections.abc import Collection, Generator, Iterable, Mapping
from contextlib import ExitStack, contextmanager, suppress
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Protocol, Self

from msgspec.structs import replace

from keepstep.errors import CheckpointNotFound, KeepstepError
from keepstep.log import logger
from keepstep.model import Checkpoint, Damage, State
from keepstep.repository import (
    Check,
    Foreign,
    Listing,
    OnBytes,
    PreviousRun,
    Repository,
    Verification,
)
from keepstep.retention import Before, Metric, Plan, Policy, fit, make_plan, rank
from keepstep.run.completeness import Completeness
from keepstep.run.events import EventLog
from keepstep.run.joining import Joiner
from keepstep.run.late_metrics import LateMetrics
from keepstep.run.limits import Limits
from keepstep.run.links import Links
from keepstep.run.lock import RunLock
from keepstep.run.pins import PinBoard, Pins
from keepstep.run.placed import Placed
from keepstep.run.previous import PreviousRuns, as_previous
from keepstep.run.readers import Readers
from keepstep.run.rebuilding import Rebuilt, read_or_rebuild
from keepstep.run.references import Known, Reference, previous_run, resolve
from keepstep.run.resume_point import ResumePoint, named, newest
from keepstep.run.runfile import RunFile
from keepstep.stores import LocalStore, store_at
from keepstep.units import format_size

DAMAGED = "damaged"
"""Said of a checkpoint whose last verification failed."""


class Planner(Protocol):
    """Says what becomes of checkpoints."""

    def __call__(self, *, checkpoints: tuple[Checkpoint, ...]) -> Plan: ...


class RunView(Placed):
    """What one run directory shows; it takes no lock and changes nothing.

    `rebuilt` says how the run was put together where its run.json is missing or damaged, None where it is there.
    """

    managed = True
    """False where others wrote the checkpoints: they have no digests, and nothing is changed."""
    proof = "verified"
    """What is said of a checkpoint once a check found nothing wrong."""

    def __init__(
        self, path: Path, file: RunFile, rebuilt: Rebuilt | None = None, store: LocalStore | None = None
    ) -> None:
        self.path = path
        self.file = file
        self.rebuilt = rebuilt
        self.store = store or store_at(path)
        self.repository = Repository(self.store, file.run_id)
        # Looking at a run that has no run.json leaves no trace in it.
        self.events = EventLog(self.store, muted=rebuilt is not None)
        self.pin_board = PinBoard(self.store)
        self.readers = Readers(self.store, muted=rebuilt is not None)
        self.lock = RunLock(self.store)
        self.links = Links(self.store)
        self.previous_runs = PreviousRuns(self.store, file.run_id, self.lock, self.pin_board)
        self._joiner, self._late = Joiner(), LateMetrics(path)
        self._completeness = Completeness()
        self._generations_known = False
        self._aside_known: tuple[Checkpoint, ...] | None = None

    @property
    def id(self) -> str:
        """Identity of the run; it stays when the directory is moved or copied."""
        return self.file.run_id

    def look_at(self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None) -> Verification:
        """What is told of a checkpoint before it is named as one that holds: every byte is read, where it lies here."""
        return self.verify(checkpoint, on_bytes)

    @property
    def policy(self) -> Policy:
        """The retention policy in force."""
        return self.file.policy()

    @property
    def limits(self) -> Limits:
        """Budget, free space and what becomes of a save without room, as the last training was begun with them."""
        return self.file.limits()

    @property
    def pins(self) -> Pins:
        """Pins and tags in force."""
        return self.pin_board.read()

    @property
    def held(self) -> frozenset[int]:
        """Generations that must not go now: pinned, tagged, or being read by somebody."""
        return self.pins.held | self.readers.read().keys()

    def holds(self, checkpoint: Checkpoint) -> bool:
        """True for a checkpoint that must not go now, of this run or of a previous one."""
        if checkpoint.state is State.PREVIOUS:
            return self.previous_runs.holds(checkpoint)
        return checkpoint.generation in self.held

    @contextmanager
    def reading(self, checkpoints: Iterable[Checkpoint], why: str) -> Generator[None]:
        """Keep checkpoints in place while the block lasts, those of previous runs too; see `Readers.reading`."""
        generations: dict[Path, list[int]] = {}
        readers: dict[Path, Readers] = {}
        for checkpoint in checkpoints:
            owner = self.whose(checkpoint)
            readers.setdefault(owner.path, owner.readers)
            generations.setdefault(owner.path, []).append(checkpoint.generation)
        with ExitStack() as held:
            for path, reader in readers.items():
                held.enter_context(reader.reading(generations[path], why))
            yield

    def listing(self) -> Listing:
        """`checkpoints` and `foreign` in one look at the disk."""
        listing = self.repository.listing()
        known = self.events.lost()
        lost = self._completeness.lost(self.repository, listing.checkpoints, known, say=self.lock.held)
        late, damage = self._late.known(self.events), self.events.damage()
        return replace(listing, checkpoints=self._joiner.join(listing.checkpoints, late, lost, damage))

    @property
    def checkpoints(self) -> tuple[Checkpoint, ...]:
        """Committed checkpoints by generation, with late metrics and known damage, and without lost files."""
        return self.listing().checkpoints

    @property
    def foreign(self) -> tuple[Foreign, ...]:
        """Directories that are called like checkpoints and are none of this run's."""
        return self.repository.listing().foreign

    @property
    def previous(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of previous runs of this directory, which a fresh start set aside."""
        return self.previous_runs.checkpoints

    @property
    def aside(self) -> tuple[Checkpoint, ...]:
        """Checkpoints of abandoned timelines and in quarantine, by generation.

        While this object holds the lock nobody else puts any there, and they are read once.
        """
        if self._aside_known is not None and self.lock.held:
            return self._aside_known
        self._aside_known = Joiner().join(self.repository.aside(), self.events.late_metrics())
        return self._aside_known

    @property
    def latest(self) -> Checkpoint | None:
        """The newest committed checkpoint, None when there is none."""
        return max(self.checkpoints, key=lambda checkpoint: checkpoint.generation, default=None)

    @property
    def best(self) -> Checkpoint | None:
        """The best committed checkpoint by the run's metric (ties: the earlier), None when none can be ranked."""
        return next(iter(self.ranking()), None)

    def ranking(self, *, spoiled: bool = False) -> tuple[Checkpoint, ...]:
        """Committed checkpoints, best first; without a metric, or without its value, none.

        One whose weights are known to be damaged is left out, unless `spoiled`.
        """
        metric = self.policy.metric
        return rank(self.checkpoints, metric, spoiled=spoiled) if metric else ()

    def spoiled_before(self, checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
        """Those that would rank before a checkpoint, were they not known to be damaged, best first."""
        ranked = self.ranking(spoiled=True)
        generations = [other.generation for other in ranked]
        if checkpoint.generation not in generations:
            return ()
        return tuple(c for c in ranked[: generations.index(checkpoint.generation)] if c.spoiled)

    def point_links(self, *, without: Iterable[Checkpoint] = (), beside: Checkpoint | None = None) -> None:
        """Let the links, where the run has any, lead to the best and to the newest that is not known to be damaged.

        `without` are about to go; `beside` takes the place of one of them that has its generation.
        """
        if self.rebuilt is not None or not self.links.on:
            return
        with suppress(OSError, KeepstepError):  # links are no reason for anything to fail
            self._point_links(without, beside)

    def _point_links(self, without: Iterable[Checkpoint], beside: Checkpoint | None) -> None:
        leaving = {checkpoint.generation for checkpoint in without}
        checkpoints = [c for c in self.checkpoints if c.generation not in leaving]
        if beside is not None:
            checkpoints = sorted((*checkpoints, beside), key=lambda checkpoint: checkpoint.generation)
        metric = self.policy.metric
        best = next(iter(rank(checkpoints, metric)), None) if metric else None
        latest = next((checkpoint for checkpoint in reversed(checkpoints) if not checkpoint.damage), None)
        self.links.point({"best": best.name if best else None, "latest": latest.name if latest else None})

    def oddities(self) -> tuple[str, ...]:
        """What a person should know of its checkpoints before believing their order."""
        return ()

    def must_be_managed(self) -> None:
        """Nothing for a run of keepstep's own; raises NotManaged for one that others wrote."""

    def word_for(self, checkpoint: Checkpoint) -> str:
        """How a checkpoint stands, in a word or two: that of its state, or that it is damaged."""
        return DAMAGED if checkpoint.damage else checkpoint.state.value

    def find(self, reference: Reference, *, aside: bool = False) -> Checkpoint:
        """The checkpoint that `best`, `latest`, a step, `step:N`, `gen:N`, a tag or a path names; with `aside` one that
        lies aside too, by `gen:N`, its path, or `previous:ID` and `previous:ID/REF` for those of previous runs.

        Raises CheckpointNotFound, listing what there is.
        """
        return resolve(reference, self.known(reaches=aside))

    def find_previous(self, name: str) -> PreviousRun:
        """The previous run of that id, or of the only one that begins so. Raises CheckpointNotFound."""
        return previous_run(name, self.known())

    def known(self, *, reaches: bool = True) -> Known:
        """What references can point to."""
        checkpoints = self.checkpoints
        metric = self.policy.metric
        ranked = rank(checkpoints, metric) if metric else ()
        why = f"none has a value of {metric.name}" if metric else "the run has no metric to rank by"
        return Known(
            self.path,
            checkpoints,
            next(iter(ranked), None),
            why,
            self.pins,
            aside=lambda: self.aside,
            previous=lambda: self.previous_runs.runs,
            inside=self._inside,
            reaches=reaches,
            name=self.address,
        )

    def _inside(self, previous: PreviousRun) -> Known:
        """What references into a previous run can point to: its checkpoints, as those of a previous run."""
        run = self.before(previous)
        known = run.known()
        there = {checkpoint.path: checkpoint for checkpoint in previous.checkpoints}

        def of(found: Iterable[Checkpoint]) -> tuple[Checkpoint, ...]:
            return tuple(as_previous(checkpoint) for checkpoint in found if checkpoint.path in there)

        best = as_previous(known.best) if known.best else None
        return replace(known, checkpoints=of(known.checkpoints), best=best, aside=lambda: of(run.aside))

    def before(self, previous: PreviousRun) -> Self:
        """A previous run of this directory as a run of its own."""
        store = LocalStore(self.path / previous.home)
        return type(self)(store.root, *read_or_rebuild(store))

    def whose(self, checkpoint: Checkpoint) -> Self:
        """The run that a checkpoint is of: this one, or a previous one of this directory. Raises CheckpointNotFound."""
        if checkpoint.state is not State.PREVIOUS:
            return self
        for previous in self.previous_runs.runs:
            if any(other.path == checkpoint.path for other in previous.checkpoints):
                return self.before(previous)
        raise CheckpointNotFound(f"{checkpoint.path} is gone: its run was moved or removed")

    def verify(
        self, checkpoint: Checkpoint, on_bytes: OnBytes | None = None, *, alone: Collection[str] | None = None
    ) -> Verification:
        """Check every byte of a checkpoint against its manifest, or of these files `alone`, the others by size."""
        return self.repository.verify(checkpoint, on_bytes, alone=alone)

    def note_verified(self, verification: Verification) -> None:
        """Put the outcome of a check into the event log, of the run that it is of."""
        if verification.checkpoint.state is State.PREVIOUS:
            self.whose(verification.checkpoint).events.append("verified", **verification.to_json())
            return
        self.events.append("verified", **verification.to_json())
        if verification.damage or verification.checkpoint.damage:
            self.point_links()

    def resume_point(
        self, reference: Reference = "latest", on_bytes: OnBytes | None = None, *, check: Check | None = None
    ) -> ResumePoint:
        """A verified checkpoint to resume from: the newest that holds, or exactly the one that is named, wherever it
        lies.

        `check` takes the place of `verify`, for a caller that keeps what it reads.
        Raises CheckpointNotFound when there is none, ResumeRefused when the named one can't be resumed from.
        """
        check = check or partial(self.verify, on_bytes=on_bytes)
        listing = self.listing()
        if isinstance(reference, str) and reference in ("auto", "latest"):
            point = newest(self.address, listing, check, proof=self.proof)
        else:
            point = named(self.address, listing, self.find(reference, aside=True), reference, check, proof=self.proof)
        point.say_what_is_odd()
        return point

    def plan(
        self,
        policy: Policy | None = None,
        *,
        budget: int | None = None,
        checkpoints: tuple[Checkpoint, ...] | None = None,
        also_protected: dict[int, str] | None = None,
        held_before: Mapping[Before, str] | None = None,
    ) -> Plan:
        """What is to be kept and removed now, with reasons: by the run's own policy within its own budget, or by
        `policy`, within `budget` (bytes) alone.

        `checkpoints` are those of a `listing()` that was taken a moment ago, where there is one; `also_protected` and
        `held_before` name what must stay of this run and of previous ones, and why.
        """
        if checkpoints is None:
            checkpoints = self.checkpoints
        asked = policy is not None or budget is not None
        if not asked:
            budget = self.limits.budget
        policy, pinned = policy or self.policy, self.pins.held
        plan = make_plan(
            checkpoints,
            policy,
            aside=(*self.aside, *self.previous),
            now=datetime.now(UTC),
            pinned=pinned,
            protected=self.readers.read() | (also_protected or {}),
            held_before=self.previous_runs.held() | dict(held_before or {}),
            evaluated_later=self.evaluated_later(policy.metric),
        )
        if budget is None:
            return plan if asked else self.worded(plan)
        return fit(plan, budget, policy.metric, why=f"over the budget of {format_size(budget)}")

    def worded(self, plan: Plan) -> Plan:
        """The run's own plan with reasons that are none of its policy's, where it has such."""
        return plan

    def evaluated_later(self, metric: Metric | None) -> bool:
        """True where most values of the metric came after their checkpoints' commits: from a late evaluation."""
        if metric is None:
            return False
        with_commits, afterwards = self.events.arrivals()
        return (metric.value(afterwards) or 0) > (metric.value(with_commits) or 0)

    def settled(
        self,
        plan: Planner,
        *,
        always: bool = False,
    ) -> Plan:
        """What `plan` says of the checkpoints, once each that it keeps while others go has its files, by their names
        and sizes: one that is found torn takes no place, and the plan is made anew. With `always` it is looked at them
        where nothing goes yet, too.

        What is found is said, and goes into the event log, where this object holds the lock.
        """
        checkpoints = self.checkpoints
        looked: set[int] = set()
        while (found := plan(checkpoints=checkpoints)).changes or always:
            kept = [d.checkpoint for d in found.decisions if d.stays and d.checkpoint.generation not in looked]
            looked.update(checkpoint.generation for checkpoint in kept)
            damage = self._torn(kept)
            if not damage:
                return found
            checkpoints = tuple(c.known(damage.get(c.generation, c.damage)) for c in checkpoints)
        return found

    def _torn(self, checkpoints: Iterable[Checkpoint]) -> dict[int, Damage]:
        """Those whose files are not all there as they were written, and that were not known to be damaged."""
        found = [self.repository.examine(checkpoint) for checkpoint in checkpoints if not checkpoint.damage]
        damaged = [verification for verification in found if verification.damage]
        for verification in damaged if self.lock.held else ():
            logger.warning("Damaged is %s. It stays, and takes no other one's place", verification.summary())
            self.note_verified(verification)
        return {verification.checkpoint.generation: verification.damage for verification in damaged}
