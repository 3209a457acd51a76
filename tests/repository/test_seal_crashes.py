"""A seal that is stopped anywhere, by a kill or a power cut, leaves the old manifest or the new one: never half."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from keepstep import layout
from keepstep.repository import MANIFEST_NAME, Changes, manifest
from keepstep.run import Run
from keepstep.stores import Store
from keepstep.stores.memory import MemoryStore
from tests.repository.crash_model import FILES, Scenario, Violation, World, by_generation, commit

AVERAGE = b"the average of the weights"


def two(run: Run) -> None:
    commit(run, 1, 2)
    commit(run, 2, 4)


def add(run: Run) -> None:
    two(run)
    memory(run).put("checkpoint-4/ema.pt", AVERAGE)
    memory(run).put("checkpoint-4/merged/deep/model.safetensors", AVERAGE)


def rewrite(run: Run) -> None:
    two(run)
    memory(run).put(f"checkpoint-4/{FILES[0]}", AVERAGE)


def drop(run: Run) -> None:
    two(run)
    memory(run).delete(f"checkpoint-4/{FILES[1]}")


def everything(run: Run) -> None:
    add(run)
    memory(run).put(f"checkpoint-4/{FILES[0]}", AVERAGE)
    memory(run).delete(f"checkpoint-4/{FILES[1]}")


def seal(run: Run) -> None:
    run.seal(by_generation(run, 2), by=("test",))


def memory(run: Run) -> MemoryStore:
    store = run.store
    assert isinstance(store, MemoryStore)
    return store


def scenario(setup: Callable[[Run], None], before: int, after: int) -> Scenario:
    return Scenario(setup.__name__, setup, seal, before=before, after=after, survive=frozenset({1, 2}))


# What others write is unsynced until the seal: before it, a power cut may take any of it.
SEALS = [scenario(add, 2, 2), scenario(rewrite, 1, 2), scenario(drop, 1, 1), scenario(everything, 1, 1)]


@dataclass
class SealWorld(World):
    """Asks of every outcome whether the manifest of generation 2 is one of the two, and speaks the truth."""

    def _check(self, store: MemoryStore, scenario: Scenario, completed: bool) -> None:
        self.cases += 1
        run = self.open(store)
        data = store.read(f"checkpoint-4/{MANIFEST_NAME}", limit=manifest.SIZE_LIMIT)
        is_new = manifest.digest_in(data) != self._digest_before(scenario)
        if completed and not is_new:
            raise Violation("a seal that was completed is gone")
        run.begin_writing()
        if litter := [room for room in (layout.STAGING, layout.TRASH) if store.list(room)]:
            raise Violation(f"litter in {litter}")
        checkpoint = run.repository.committed("checkpoint-4")
        if checkpoint is None:
            raise Violation("the checkpoint is gone")
        found = run.repository.verify(checkpoint)
        if is_new and (found.problems or found.added or found.missing):
            raise Violation(f"the new manifest is not true: {found}")
        if not is_new and scenario.before == 2 and not found.resumable:
            raise Violation(f"what was only added is damage: {found}")
        point = run.resume_point().checkpoint.generation
        if point not in {scenario.after} | (set() if completed else {scenario.before, 2}):
            raise Violation(f"resumes from generation {point}")
        if not run.repository.verify(by_generation(run, point)).resumable:
            raise Violation("resumes from wrong bytes")

    def _digest_before(self, scenario: Scenario) -> str:
        store = self._prepared(scenario)
        return manifest.digest_in(store.read(f"checkpoint-4/{MANIFEST_NAME}", limit=manifest.SIZE_LIMIT))


@pytest.mark.parametrize("scenario", SEALS, ids=lambda scenario: scenario.name)
def test_every_stop_leaves_one_of_the_two(scenario: Scenario) -> None:
    assert SealWorld().explore(scenario) > 50


# -- negative controls: the oracle can fail ----------------------------------------------------------------


class NoFileSync(MemoryStore):
    def sync_file(self, path: str) -> None:
        self._announce("sync_file", path)


class NoDirectorySync(MemoryStore):
    def sync_directory(self, path: str) -> None:
        self._announce("sync_directory", path)


class InPlace(MemoryStore):
    def replace(self, path: str, data: bytes, *, workplace: str | None = None) -> None:
        self.put(path, data)
        self.sync_file(path)


def manifest_first(store: Store, directory: str, changes: Changes) -> None:
    store.make_directory(layout.STAGING, durable=False)
    store.replace(f"{directory}/{MANIFEST_NAME}", manifest.encode(changes.after), workplace=layout.STAGING)
    for path in changes.touched:
        store.sync_file(f"{directory}/{path}")
    for entry in store.walk(directory):
        if entry.kind == "directory":
            store.sync_directory(f"{directory}/{entry.path}")


def files_alone(store: Store, directory: str, changes: Changes) -> None:
    """No name is made durable before the manifest that speaks of it."""
    for path in changes.touched:
        store.sync_file(f"{directory}/{path}")
    store.make_directory(layout.STAGING, durable=False)
    store.replace(f"{directory}/{MANIFEST_NAME}", manifest.encode(changes.after), workplace=layout.STAGING)


@pytest.mark.parametrize(
    ("world", "scenario"),
    [
        (SealWorld(make_store=NoFileSync), SEALS[0]),
        (SealWorld(make_store=NoFileSync), SEALS[1]),
        (SealWorld(make_store=NoDirectorySync), SEALS[0]),
        (SealWorld(make_store=InPlace), SEALS[0]),
    ],
    ids=lambda value: value.name if isinstance(value, Scenario) else value.make_store.__name__,
)
def test_a_store_that_does_not_keep_its_word_breaks_the_promise(world: SealWorld, scenario: Scenario) -> None:
    with pytest.raises((Violation, OSError)):
        world.explore(scenario)


@pytest.mark.parametrize("write", [manifest_first, files_alone])
def test_another_order_breaks_the_promise(
    write: Callable[[Store, str, Changes], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.repository.repository.write_seal", write)
    with pytest.raises(Violation):
        SealWorld().explore(SEALS[3])
