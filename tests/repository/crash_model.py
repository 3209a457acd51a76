"""Stops a run at every change it makes, cuts the power or only kills it, and checks what is found afterwards."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Hashable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from zlib import crc32

from keepstep import layout
from keepstep.errors import CheckpointNotFound
from keepstep.model import Checkpoint, Kind, parse_name
from keepstep.repository import MANIFEST_NAME, Repository
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.run.events import EventLog
from keepstep.run.pins import PinBoard
from keepstep.run.runfile import RunFile, write_run_file
from keepstep.stores.memory import Luck, MemoryStore, no_luck

FILES = ("model.bin", "state/optimizer.bin")
RUN_ID = "run-test"


class Violation(AssertionError):
    """A promise that did not hold."""


class PowerCut(BaseException):
    """The process is gone: nothing it would still do happens."""


class NoLock:
    """The lock of a test that has one process."""

    held = True

    def acquire(self, what: str = "") -> None: ...

    def release(self) -> None: ...


def lucky(seed: int) -> Luck:
    """Half of all paths were written back, others for each seed."""
    return lambda path: bool(crc32(f"{seed} {path}".encode()) & 1)


Pairs = Literal["none", "killed", "all"]
ADVERSE: tuple[Luck, ...] = (no_luck, lambda path: "/" in path)
"""Nothing was written back, and: everything was but the names in the run directory itself."""
POWER_CUTS: tuple[Luck, ...] = (*ADVERSE, lambda _: True, *(lucky(seed) for seed in range(6)))


@dataclass(frozen=True)
class Scenario:
    """A history, the action that is stopped, and what may be resumed from afterwards.

    `before` and `after`: generation to resume from when the action was not, or was, completed (a stop in
    between allows both). `survive`: generations that must be there, in the run or aside, whatever happened.
    `listed`: sets of generations of which one must be in the run after a recovery; empty allows any.
    """

    name: str
    setup: Callable[[Run], None]
    action: Callable[[Run], None]
    before: int
    after: int
    survive: frozenset[int]
    listed: tuple[frozenset[int], ...] = ()
    damaged: frozenset[int] = frozenset()
    can_exchange: bool = True
    can_link: bool = True
    always_visible: bool = True


@dataclass
class World:
    """What is under test; negative controls replace a part of it."""

    make_store: Callable[..., MemoryStore] = MemoryStore
    run_class: type[Run] = Run
    repository_class: type[Repository] = Repository
    cases: int = field(default=0)
    _judged: set[Hashable] = field(default_factory=set[Hashable])
    _explored: dict[Hashable, int] = field(default_factory=dict[Hashable, int])

    def open(self, store: MemoryStore) -> Run:
        """The run in a store in memory."""
        file = RunFile.for_policy(Policy.from_spec("all"), run_id=RUN_ID, created=datetime(2026, 1, 1, tzinfo=UTC))
        run = self.run_class(store.local_path(""), file)
        run.store = store  # type: ignore[assignment]
        run.repository = self.repository_class(store, RUN_ID)
        run.events = EventLog(store)
        run.pin_board = PinBoard(store)
        run.lock = NoLock()  # type: ignore[assignment]
        return run

    # -- exploring -------------------------------------------------------------------------------------

    def explore(self, scenario: Scenario, pairs: Pairs = "none") -> int:
        """Stop the action at every change; returns how many outcomes were checked. Raises Violation.

        `pairs` says after which first stops the recovery is stopped as well, at each of its own changes. Many stops
        leave the same store, to the byte and to what is durable of it: it is judged, and recovered, once.
        """
        self.cases = 0
        self._judged.clear()
        self._explored.clear()
        at, completed = 0, False
        while not completed:
            at += 1
            store = self._prepared(scenario)
            completed = self._stopped_at(at, store, scenario.action) is None
            for number, found in enumerate(self._outcomes(store, POWER_CUTS)):
                if pairs == "all" or (pairs == "killed" and number == 0):
                    self._stop_recovery(found, scenario, completed)
                self._check(found, scenario, completed)
        return self.cases

    def _prepared(self, scenario: Scenario) -> MemoryStore:
        store = self.make_store(can_exchange=scenario.can_exchange, can_link=scenario.can_link)
        store.make_directory(layout.META)
        run = self.open(store)
        write_run_file(store, run.file)  # type: ignore[arg-type]
        scenario.setup(run)
        return store

    def _stopped_at(self, at: int, store: MemoryStore, action: Callable[[Run], None]) -> PowerCut | None:
        changes = 0

        def before(_operation: str, _path: str) -> None:
            nonlocal changes
            changes += 1
            if changes >= at:
                raise PowerCut

        store.before = before
        try:
            action(self.open(store))
        except PowerCut as cut:
            return cut
        finally:
            store.before = None
        return None

    def _outcomes(self, store: MemoryStore, cuts: tuple[Luck, ...]) -> Iterator[MemoryStore]:
        """The store after a kill, and after each power cut."""
        yield _twin(store)
        for luck in cuts:
            yield store.crash(luck)

    def _stop_recovery(self, found: MemoryStore, scenario: Scenario, completed: bool) -> None:
        state, before = (completed, found.state()), self.cases
        if state in self._explored:
            self.cases += self._explored[state]
            return
        at, recovered = 0, False
        while not recovered:
            at += 1
            store = _twin(found)
            recovered = self._stopped_at(at, store, Run.begin_writing) is None
            for again in self._outcomes(store, ADVERSE):
                self._check(again, scenario, completed)
        self._explored[state] = self.cases - before

    # -- the oracle ------------------------------------------------------------------------------------

    def _check(self, store: MemoryStore, scenario: Scenario, completed: bool) -> None:
        self.cases += 1
        if (state := (completed, store.state())) in self._judged:
            return
        self._judged.add(state)
        run = self.open(store)
        self._all_visible_are_complete(run, scenario, twins=True)
        if scenario.always_visible and not any(_holds(run, c) for c in run.checkpoints):
            raise Violation("no valid checkpoint is visible")
        run.begin_writing()
        self._all_visible_are_complete(run, scenario)
        self._resumes(run, scenario, completed)
        self._nothing_is_lost(run, scenario)
        self._recovery_is_done(run)

    def _all_visible_are_complete(self, run: Run, scenario: Scenario, *, twins: bool = False) -> None:
        """With `twins` a thinned one may stand beside the full one, which alone is listed."""
        seen = {entry.path for entry in run.store.list("") if parse_name(entry.path)}
        listed = {checkpoint.name: checkpoint for checkpoint in run.checkpoints}
        if twins:
            seen -= {checkpoint.thinned().name for checkpoint in listed.values() if checkpoint.kind is Kind.FULL}
        if seen != set(listed):
            raise Violation(f"{seen - set(listed)} can be seen and is no checkpoint")
        for checkpoint in listed.values():
            if checkpoint.generation not in scenario.damaged and not _holds(run, checkpoint):
                raise Violation(f"{checkpoint.name} can be seen and is not complete")

    def _resumes(self, run: Run, scenario: Scenario, completed: bool) -> None:
        try:
            point = run.resume_point().checkpoint
        except CheckpointNotFound as error:
            raise Violation("nothing to resume from") from error
        allowed = {scenario.after} if completed else {scenario.before, scenario.after}
        if point.generation not in allowed or not _holds(run, point):
            raise Violation(f"resumes from generation {point.generation}, not one of {allowed}, or from wrong bytes")

    def _nothing_is_lost(self, run: Run, scenario: Scenario) -> None:
        everything = (*run.checkpoints, *run.aside)
        there = {c.generation for c in everything if c.generation in scenario.damaged or _holds(run, c)}
        if missing := scenario.survive - there:
            raise Violation(f"generations {sorted(missing)} are lost")
        listed = frozenset(checkpoint.generation for checkpoint in run.checkpoints)
        if scenario.listed and listed not in scenario.listed:
            raise Violation(f"the run is left half-way: {sorted(listed)}")

    def _recovery_is_done(self, run: Run) -> None:
        rooms = (layout.STAGING, layout.TRASH, layout.REPLACED)
        if any(run.store.list(room) for room in rooms) or any(map(run.store.exists, (layout.REWIND, layout.RETURN))):
            raise Violation("recovery leaves litter")
        before = run.store.walk("")
        run.begin_writing()
        if run.store.walk("") != before:
            raise Violation("a second recovery changes something")


def _twin(store: MemoryStore) -> MemoryStore:
    """A store like this one, what is linked in it too."""
    return pickle.loads(pickle.dumps(store, pickle.HIGHEST_PROTOCOL))


def content(generation: int, name: str) -> bytes:
    """The bytes of one file of one generation."""
    return f"{name} of generation {generation}".encode()


def _holds(run: Run, checkpoint: Checkpoint) -> bool:
    """Compares with what was written: this does not trust verification, which is under test."""
    key = run.repository.key(checkpoint)
    files, entries = (FILES, 4) if checkpoint.kind is Kind.FULL else (FILES[:1], 2)
    try:
        return (
            all(run.store.read(f"{key}/{name}", limit=1000) == content(checkpoint.generation, name) for name in files)
            and len(run.store.walk(key)) == entries
        )
    except OSError:
        return False


# -- what a scenario is made of ----------------------------------------------------------------------------


def commit(run: Run, generation: int, step: int, parent: int | None = None) -> Checkpoint:
    """Save one checkpoint, its files written as frameworks do: without a sync."""
    store = run.store
    assert isinstance(store, MemoryStore)
    draft = Checkpoint(
        RUN_ID, generation, run.repository.current_timeline(), parent, step, None, Kind.FULL,
        datetime(2026, 1, 1, tzinfo=UTC), {}, (),
    )  # fmt: skip
    staging = run.repository.stage()
    for name in FILES:
        store.put(f"{staging.key}/{draft.name}/{name}", content(generation, name))
    return run.commit(staging, draft)


def by_generation(run: Run, generation: int) -> Checkpoint:
    """One committed checkpoint."""
    return next(c for c in run.checkpoints if c.generation == generation)


def damage(run: Run, generation: int) -> None:
    """Change a byte, durably, behind the run's back."""
    store = run.store
    assert isinstance(store, MemoryStore)
    path = f"{by_generation(run, generation).name}/{FILES[0]}"
    store.put(path, content(generation, FILES[0])[:-1] + b"?")
    store.sync_file(path)


def manifest_path(checkpoint: Checkpoint) -> str:
    """The key of a checkpoint's manifest."""
    return f"{checkpoint.name}/{MANIFEST_NAME}"
