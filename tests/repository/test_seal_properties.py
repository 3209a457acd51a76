"""Whatever others do to a checkpoint's files, a seal is the directory as it is, or what changed since a look."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import given, settings
from hypothesis import strategies as st

from keepstep import layout
from keepstep.model import FileEntry, Kind
from keepstep.repository.manifest import MANIFEST_NAME, digest_of
from keepstep.run import Run
from keepstep.run.runfile import write_run_file
from keepstep.stores.memory import MemoryStore
from tests.repository.crash_model import FILES, World, by_generation, commit

WHERE = "checkpoint-2"
NAMES = st.sampled_from(
    [
        *FILES,
        "ema.pt",
        "tokenizer.json",
        "merged/model.safetensors",
        "state/ema.pt",
        "state/rng_state.pth",
        "scheduler.pt",
    ]
)
Change = tuple[str, bytes | None]
CHANGES = st.lists(st.tuples(NAMES, st.none() | st.binary(max_size=3)), max_size=8)
"""Names, and the bytes that they get; None takes them away."""


def new_run() -> tuple[Run, MemoryStore]:
    store = MemoryStore()
    store.make_directory(layout.META)
    run = World().open(store)
    write_run_file(store, run.file)  # type: ignore[arg-type]
    commit(run, 1, 2)
    return run, store


def make(store: MemoryStore, changes: list[Change]) -> None:
    for name, data in changes:
        if data is None:
            store.delete(f"{WHERE}/{name}")
        else:
            store.put(f"{WHERE}/{name}", data)


def there(store: MemoryStore) -> dict[str, str]:
    """Digests of what lies in the directory, by path."""
    paths = [entry.path for entry in store.walk(WHERE) if entry.kind == "file" and entry.path != MANIFEST_NAME]
    return {path: digest_of(store.read(f"{WHERE}/{path}", limit=100)) for path in paths}


def digests(files: tuple[FileEntry, ...]) -> dict[str, str]:
    return {file.path: file.digest for file in files}


def leaves_something(
    work: Callable[[list[Change], list[Change]], None],
) -> Callable[[list[Change], list[Change]], None]:
    """A checkpoint of which nothing is left is refused; that is not asked here."""

    def checked(before: list[Change], since: list[Change]) -> None:
        left = {FILES[0]: b"kept"}
        work([*before, *left.items()], [change for change in since if change[0] != FILES[0]])

    return checked


@settings(max_examples=200, deadline=None)
@given(CHANGES, CHANGES)
def test_a_seal_without_a_look_is_the_directory_as_it_is(before: list[Change], since: list[Change]) -> None:
    def work(before: list[Change], since: list[Change]) -> None:
        run, store = new_run()
        old = by_generation(run, 1)
        make(store, [*before, *since])
        sealed = run.seal(old)
        assert digests(sealed.files) == there(store)
        found = run.verify(sealed)
        assert (found.problems, found.added, found.missing) == ((), (), ())
        assert (sealed.kind, sealed.lost) == (
            (Kind.FULL, ()) if FILES[1] in there(store) else (Kind.WEIGHTS, (FILES[1],))
        )
        told = [event for event in run.events.read() if event["event"] == "sealed"]
        assert len(told) == (digests(sealed.files) != digests(old.files))
        for event in told:
            known = {one["path"]: one["before"] for one in event["rewritten"]}
            unchanged = {
                path: digest for path, digest in there(store).items() if digests(old.files).get(path) == digest
            }
            gone = {path: digests(old.files)[path] for path in event["removed"]}
            # The bytes of before stay known: in the event, or in the manifest.
            assert {**known, **unchanged, **gone} == digests(old.files)
            assert set(event["added"]) == there(store).keys() - digests(old.files).keys()

    leaves_something(work)(before, since)


@settings(max_examples=200, deadline=None)
@given(CHANGES, CHANGES)
def test_a_seal_since_a_look_takes_over_nothing_of_before(before: list[Change], since: list[Change]) -> None:
    def work(before: list[Change], since: list[Change]) -> None:
        run, store = new_run()
        old = by_generation(run, 1)
        make(store, before)
        at_the_look = there(store)
        look = run.look(old)
        make(store, since)
        sealed = run.seal(old, look)
        now, listed, known = there(store), digests(sealed.files), digests(old.files)
        for path in now.keys() | at_the_look.keys() | known.keys():
            if now.get(path) != at_the_look.get(path):
                assert listed.get(path) == now.get(path), path
            elif path in dict(since):  # the same bytes again, which a stamp may tell or not
                assert listed.get(path) in {known.get(path), now.get(path)}, path
            else:
                assert listed.get(path) == known.get(path), path

    leaves_something(work)(before, since)
