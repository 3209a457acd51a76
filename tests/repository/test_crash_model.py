"""No power cut and no kill, at any change of any action, loses what was committed; every negative control does."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import replace
from itertools import count
from types import SimpleNamespace

import msgspec
import pytest

from keepstep.model import Checkpoint, FileEntry, Kind, State
from keepstep.repository import Dispose, Repository, Staging, Verification, manifest
from keepstep.repository.linking import link_files
from keepstep.run import ResumePoint, Return, Run
from keepstep.stores.memory import MemoryStore
from tests.repository.crash_model import Scenario, Violation, World, by_generation, commit, damage


@pytest.fixture(autouse=True)
def _known_names(monkeypatch: pytest.MonkeyPatch) -> None:
    """The luck of a path hangs on its name: the same names in every run of the tests."""
    numbers = count(1)
    monkeypatch.setattr(
        "keepstep.repository.repository.uuid.uuid4", lambda: SimpleNamespace(hex=f"{next(numbers):08x}")
    )


# -- scenarios ---------------------------------------------------------------------------------------------


def one(run: Run) -> None:
    commit(run, 1, 2)


def two(run: Run) -> None:
    commit(run, 1, 2)
    commit(run, 2, 4)


def two_and_a_twin(run: Run) -> None:
    two(run)
    run.repository.thin(by_generation(run, 1))


def four(run: Run) -> None:
    two(run)
    commit(run, 3, 6)
    commit(run, 4, 8)


def four_with_the_last_two_damaged(run: Run) -> None:
    four(run)
    damage(run, 3)
    damage(run, 4)


def save(run: Run) -> None:
    commit(run, 3, 6)


def again(run: Run) -> None:
    commit(run, 2, 2)


def older_again(run: Run) -> None:
    commit(run, 3, 2)


def save_and_retain_the_newest(run: Run) -> None:
    save(run)
    for generation in (1, 2):
        run.remove(by_generation(run, generation), "not the newest")


def quarantine_the_damaged(run: Run) -> None:
    for verification in run.resume_point().passed_over:
        run.quarantine(verification)


def thin_the_first(run: Run) -> None:
    run.thin(by_generation(run, 1), "kept for quality only")


def rewind(run: Run) -> None:
    if any(checkpoint.generation == 2 for checkpoint in run.checkpoints):
        run.rewind(by_generation(run, 2))


def two_courses(run: Run) -> None:
    """Generations 3 and 4 lie aside, and 5 has the name of 3."""
    for generation, step in ((1, 2), (2, 4), (3, 6), (4, 8)):
        commit(run, generation, step, generation - 1 or None)
    run.rewind(by_generation(run, 2))
    commit(run, 5, 6, 2)


def bring_back(run: Run) -> None:
    lying = [checkpoint for checkpoint in run.aside if checkpoint.generation == 4]
    if lying:
        run.bring_back(run.way_back(lying[0]))


FIRST_AND_ONLY = Scenario(
    "save the only step again", one, again,
    before=1, after=2, survive=frozenset(),
)  # fmt: skip
THIN = Scenario(
    "thin", two, thin_the_first,
    before=2, after=2, survive=frozenset({1, 2}), listed=(frozenset({1, 2}),),
)  # fmt: skip
RETURN = Scenario(
    "restore", two_courses, bring_back, before=5, after=4, survive=frozenset({1, 2, 3, 4, 5}),
    listed=(frozenset({1, 2, 5}), frozenset({1, 2, 3, 4})),
)  # fmt: skip
SCENARIOS = [
    Scenario("save", two, save, before=2, after=3, survive=frozenset({1, 2})),
    FIRST_AND_ONLY,
    replace(FIRST_AND_ONLY, name="save the only step again, no exchange", can_exchange=False, always_visible=False),
    Scenario(
        "save an older step again", two, older_again, before=2, after=3,
        survive=frozenset({2}),
    ),
    Scenario("retention", two, save_and_retain_the_newest, before=2, after=3, survive=frozenset()),
    Scenario(
        "quarantine", four_with_the_last_two_damaged, quarantine_the_damaged, before=2, after=2,
        survive=frozenset({1, 2, 3, 4}), damaged=frozenset({3, 4}),
    ),
    Scenario(
        "rewind", four, rewind, before=4, after=2, survive=frozenset({1, 2, 3, 4}),
        listed=(frozenset({1, 2, 3, 4}), frozenset({1, 2})),
    ),
    THIN,
    replace(THIN, name="thin where there are no hard links", can_link=False),
    replace(THIN, name="thin again after a failure", setup=two_and_a_twin),
    RETURN,
]  # fmt: skip


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_stop_keeps_the_promises(scenario: Scenario) -> None:
    assert World().explore(scenario) > 50


@pytest.mark.parametrize("scenario", [SCENARIOS[2], SCENARIOS[6], THIN], ids=lambda scenario: scenario.name)
def test_every_power_cut_in_the_recovery_from_a_kill_keeps_them_too(scenario: Scenario) -> None:
    assert World().explore(scenario, "killed") > 500


@pytest.mark.campaign
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.name)
def test_every_stop_of_every_recovery_keeps_them_too(scenario: Scenario) -> None:
    cases = World().explore(scenario, "all")
    print(f"{scenario.name}: {cases} outcomes of two stops")
    assert cases > 2000


# -- negative controls: the oracle can fail ----------------------------------------------------------------


class NoFileSync(MemoryStore):
    def sync_file(self, path: str) -> None:
        self._announce("sync_file", path)


class NoDirectorySync(MemoryStore):
    def sync_directory(self, path: str) -> None:
        self._announce("sync_directory", path)


class SourceSyncedFirst(Repository):
    def move(self, key: str, home: str, name: str = "") -> str:
        parent, _, own = key.rpartition("/")
        moved = "/".join(filter(None, (home, name or own)))
        self.store.make_directory(home)
        self.store.rename(key, moved)
        self.store.sync_directory(parent)
        self.store.sync_directory(home)
        return moved


class ManifestFirst(Repository):
    """The manifest is durable and in place before the files are."""

    def _commit(self, staging: Staging, draft: Checkpoint, written: Mapping[str, FileEntry]) -> Checkpoint:
        staged = f"{staging.key}/{draft.name}"
        self.store.write(
            f"{staged}/keepstep.json", manifest.encode(msgspec.structs.replace(draft, files=self._files(staged)))
        )
        self.store.sync_directory(staged)
        self._publish(staged, draft.name)
        for entry in self.store.walk(draft.name):
            key = f"{draft.name}/{entry.path}"
            self.store.sync_file(key) if entry.kind == "file" else self.store.sync_directory(key)
        self.store.delete(staging.key)
        return msgspec.structs.replace(draft, path=self.store.local_path(draft.name))

    def _files(self, staged: str) -> tuple[FileEntry, ...]:
        return tuple(self._seal(staged, self.store.walk(staged), {}))


class OldRemovedFirst(Repository):
    def _swap(self, staged: str, name: str, undo: ExitStack) -> bool:
        self.store.delete(name)
        return False


class RecoveryWithoutSync(Repository):
    def _make_durable(self) -> None: ...


class NoIntent(Run):
    """A rewind that notes nothing down before its first move."""

    def rewind(self, checkpoint: Checkpoint) -> tuple[Checkpoint, ...]:
        newer = tuple(c for c in self.checkpoints if c.generation > checkpoint.generation)
        for other in newer:
            self.repository.set_aside(other, 1)
        return newer


class NoIntentToReturn(Run):
    """A restore that notes nothing down before its first move."""

    def bring_back(self, what: Return) -> Checkpoint:
        for other in what.back:
            if not self.store.exists(other.name):
                self.repository.bring_back(other)
        for other in what.aside:
            self.repository.set_aside(other, what.timeline)
        return what.checkpoint


class FullRemovedFirst(Run):
    """A thinning that removes the full one before the weights are committed."""

    def thin(self, checkpoint: Checkpoint, reason: str, dispose: Dispose | None = None) -> Checkpoint:
        staging, thinned = self.repository.stage(), checkpoint.thinned()
        link_files(self.store, checkpoint.name, f"{staging.key}/{thinned.name}", thinned.files)
        self.repository.remove(checkpoint)
        return self.repository.commit(staging, thinned)


class NoTwins(Repository):
    """A recovery that leaves a thinned checkpoint beside its full one."""

    def recover(self) -> list[str]:
        twins = [c for c in self._catalog.room("", State.COMMITTED).checkpoints if c.kind is Kind.WEIGHTS]
        for twin in twins:
            self.store.rename(twin.name, f"{twin.name}.kept")
        done = super().recover()
        for twin in twins:
            self.store.rename(f"{twin.name}.kept", twin.name)
        return done


class NoVerification(Run):
    def verify(self, checkpoint: Checkpoint, *_: object, **__: object) -> Verification:
        return Verification(checkpoint, ())


class OrderByTime(Run):
    def resume_point(self, *_: object, **__: object) -> ResumePoint:
        newest = max(self.checkpoints, key=lambda c: self.store.modified(c.name))
        return ResumePoint(newest, "the newest by time of file")


def touch_an_older_one(run: Run) -> None:
    assert isinstance(run.store, MemoryStore)
    run.store.touch("checkpoint-2")


def save_and_touch(run: Run) -> None:
    save(run)
    touch_an_older_one(run)


SAVE, ONLY, ONLY_WITHOUT_EXCHANGE, OLDER, RETENTION, QUARANTINE, REWIND = SCENARIOS[:7]
TOUCHED = replace(SAVE, name="touched", action=save_and_touch)
DAMAGED = replace(QUARANTINE, name="damaged", action=lambda run: None)


@pytest.mark.parametrize(
    ("world", "scenario"),
    [
        (World(make_store=NoFileSync), SAVE),
        (World(make_store=NoFileSync), ONLY),
        (World(make_store=NoDirectorySync), SAVE),
        (World(make_store=NoDirectorySync), ONLY),
        (World(make_store=NoDirectorySync), RETENTION),
        (World(repository_class=ManifestFirst), SAVE),
        (World(repository_class=OldRemovedFirst), ONLY),
        (World(repository_class=SourceSyncedFirst), REWIND),
        (World(repository_class=SourceSyncedFirst), ONLY_WITHOUT_EXCHANGE),
        (World(repository_class=RecoveryWithoutSync), ONLY),
        (World(run_class=NoIntent), REWIND),
        (World(run_class=NoIntentToReturn), RETURN),
        (World(repository_class=SourceSyncedFirst), RETURN),
        (World(run_class=FullRemovedFirst), THIN),
        (World(repository_class=NoTwins), THIN),
        (World(make_store=NoDirectorySync), THIN),
        (World(make_store=NoFileSync), replace(THIN, can_link=False)),
        (World(run_class=NoVerification), DAMAGED),
        (World(run_class=OrderByTime), TOUCHED),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else None,
)
def test_a_negative_control_breaks_a_promise(world: World, scenario: Scenario) -> None:
    with pytest.raises(Violation):
        world.explore(scenario, "killed")


@pytest.mark.parametrize("scenario", [TOUCHED, DAMAGED], ids=lambda scenario: scenario.name)
def test_the_scenarios_made_for_controls_hold_without_them(scenario: Scenario) -> None:
    World().explore(scenario)
