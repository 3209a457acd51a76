"""Damage of every kind is found, in the file where it is."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from keepstep.checkpointer import Facts
from keepstep.model import CHUNK_BYTES, FileEntry
from keepstep.repository import Findings, Verification, verify_files
from keepstep.repository.manifest import digest_of
from keepstep.repository.verification import sealed
from keepstep.run import Run
from keepstep.stores import Entry, LocalStore
from keepstep.stores.memory import MemoryStore
from tests.small_run import FILES, content, make_checkpointer, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", 2, 4)


def make_run_of(path: Path, *names: str, config: bytes = b"{}") -> Run:
    """A run of one checkpoint that has these files, and a config."""

    def write(directory: Path) -> None:
        for name in names:
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(content(name, 4))
        (directory / "config.json").write_bytes(config)

    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    checkpointer.save(Facts(4), write)
    checkpointer.close()
    return Run.open(path)


def check(run: Run) -> Verification:
    return run.verify(run.checkpoints[-1])


def newest(run: Run) -> Path:
    path = run.checkpoints[-1].path
    assert path is not None
    return path


def test_an_undamaged_checkpoint_is_good(run: Run) -> None:
    seen: list[int] = []
    verification = run.verify(run.checkpoints[-1], seen.append)
    assert verification.ok
    assert verification.summary() == "checkpoint-4 (generation 2) is good"
    assert sum(seen) == run.checkpoints[-1].size_bytes


@pytest.mark.parametrize("name", FILES)
def test_a_flipped_bit_is_found_at_every_offset(run: Run, name: str) -> None:
    path = newest(run) / name
    data = path.read_bytes()
    for offset in range(len(data)):
        path.write_bytes(data[:offset] + bytes([data[offset] ^ (1 << offset % 8)]) + data[offset + 1 :])
        assert [problem.path for problem in check(run).problems] == [name]
    path.write_bytes(data)
    assert check(run).ok


@pytest.mark.parametrize("name", FILES)
def test_every_truncation_is_found(run: Run, name: str) -> None:
    path = newest(run) / name
    for size in reversed(range(path.stat().st_size)):
        os.truncate(path, size)
        assert [str(problem) for problem in check(run).problems] == [f"{name} has {size} bytes instead of 200"]


def zero(path: Path) -> None:
    path.write_bytes(bytes(path.stat().st_size))


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\0")


def become_a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def become_a_link_to_the_same_bytes(path: Path) -> None:
    real = path.parents[3] / "elsewhere"
    path.rename(real)
    path.symlink_to(real)


def become_a_pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("damage", [zero, append, become_a_directory, become_a_link_to_the_same_bytes, become_a_pipe])
@pytest.mark.parametrize("name", FILES)
def test_a_damaged_file_is_named_once(run: Run, name: str, damage: Callable[[Path], None]) -> None:
    damage(newest(run) / name)
    found = check(run)
    assert ([problem.path for problem in found.problems], found.missing, found.resumable) == ([name], (), False)
    assert found.holds_weights == (name == FILES[1])


def test_without_a_file_that_everything_needs_it_is_damaged(run: Run) -> None:
    (newest(run) / FILES[0]).unlink()
    found = check(run)
    assert [str(problem) for problem in found.problems] == [f"{FILES[0]} is missing"]
    assert not (found.resumable or found.holds_weights)


def test_without_a_file_that_only_a_resume_needs_it_holds_weights(run: Run) -> None:
    (newest(run) / FILES[1]).unlink()
    found = check(run)
    assert (found.ok, found.holds_weights, found.resumable, found.lost) == (True, True, False, (FILES[1],))
    assert found.summary() == (
        "checkpoint-4 (generation 2) holds weights only: state/optimizer.bin is missing, which a resume needs"
    )


def test_without_weights_a_lost_optimizer_changes_nothing(run: Run) -> None:
    for name in FILES:
        (newest(run) / name).unlink()
    found = check(run)
    assert (found.ok, found.holds_weights, found.resumable) == (False, False, False)


def test_what_nobody_reads_may_go(tmp_path: Path) -> None:
    run = make_run_of(tmp_path / "run", *FILES, "README.md", "training_args.bin")
    for name in ("README.md", "training_args.bin"):
        (newest(run) / name).unlink()
    found = check(run)
    assert (found.ok, found.resumable, found.lost) == (True, True, ())
    assert [file.path for file in found.missing] == ["README.md", "training_args.bin"]


def test_weights_alone_are_looked_at_where_nothing_else_is_asked_for(run: Run) -> None:
    files = run.checkpoints[-1].files
    zero(newest(run) / FILES[1])
    (newest(run) / "rng_state.pth").write_bytes(b"planted")
    heard: list[int] = []
    assert verify_files(run.store, "checkpoint-4", files, heard.append, weights_alone=True).problems == ()
    assert sum(heard) == 200
    (newest(run) / "pytorch_model.bin").write_bytes(b"planted")
    found = verify_files(run.store, "checkpoint-4", files, weights_alone=True)
    assert [problem.path for problem in found.problems] == ["pytorch_model.bin"]


def test_what_took_a_files_place_is_said(run: Run) -> None:
    become_a_directory(newest(run) / FILES[0])
    become_a_link_to_the_same_bytes(newest(run) / FILES[1])
    assert [problem.what for problem in check(run).problems] == [
        "is a directory, not a regular file",
        "is a link, not a regular file",
    ]


def test_files_of_the_same_size_that_were_swapped_are_both_named(run: Run) -> None:
    one, other = (newest(run) / name for name in FILES)
    first, second = one.read_bytes(), other.read_bytes()
    assert len(first) == len(second)
    one.write_bytes(second)
    other.write_bytes(first)
    assert [problem.path for problem in check(run).problems] == list(FILES)


def test_a_file_of_another_checkpoint_is_found(run: Run) -> None:
    other = run.checkpoints[0].path
    assert other is not None
    shutil.copy(other / FILES[0], newest(run) / FILES[0])
    assert [problem.path for problem in check(run).problems] == [FILES[0]]


def harmless_file(directory: Path) -> str:
    (directory / "state" / "ema.pt").write_bytes(b"average")
    return "state/ema.pt"


def harmless_tree(directory: Path) -> str:
    (directory / "merged").mkdir()
    (directory / "merged" / "model.safetensors").write_bytes(b"merged")
    return "merged/model.safetensors"


def harmless_link(directory: Path) -> str:
    (directory / "extra").symlink_to("/etc/passwd")
    return "extra"


def harmless_pipe(directory: Path) -> str:
    os.mkfifo(directory / "extra")
    return "extra"


def second_manifest(directory: Path) -> str:
    (directory / "state" / "keepstep.json").write_bytes(b"{}")
    return "state/keepstep.json"


@pytest.mark.parametrize("add", [harmless_file, harmless_tree, harmless_link, harmless_pipe, second_manifest])
def test_what_no_loader_reads_is_added_and_no_damage(run: Run, add: Callable[[Path], str]) -> None:
    path = add(newest(run))
    found = check(run)
    assert ([entry.path for entry in found.added], found.ok, found.resumable) == ([path], True, True)


def test_an_empty_directory_is_nothing(run: Run) -> None:
    (newest(run) / "plots").mkdir()
    assert check(run) == Verification(run.checkpoints[-1], ())


def planted_file(directory: Path) -> str:
    (directory / "pytorch_model.bin").write_bytes(b"")
    return "pytorch_model.bin"


def planted_link(directory: Path) -> str:
    (directory / "model.safetensors.index.json").symlink_to("model.bin")
    return "model.safetensors.index.json"


def planted_pipe(directory: Path) -> str:
    os.mkfifo(directory / "optimizer.pt")
    return "optimizer.pt"


def planted_below(directory: Path) -> str:
    (directory / "state" / "rng_state.pth").write_bytes(b"")
    return "state/rng_state.pth"


def planted_directory(directory: Path) -> str:
    (directory / "global_step9").mkdir()
    return "global_step9"


def planted_tree(directory: Path) -> str:
    (directory / "optimizer_0").mkdir()
    (directory / "optimizer_0" / ".metadata").write_bytes(b"")
    return "optimizer_0/.metadata"


def planted_in_the_way(directory: Path) -> str:
    (directory / "pytorch_model.bin").mkdir()
    (directory / "pytorch_model.bin" / "notes.txt").write_bytes(b"")
    return "pytorch_model.bin"


@pytest.mark.parametrize(
    "plant",
    [planted_in_the_way, planted_file, planted_link, planted_pipe, planted_below, planted_directory, planted_tree],
)
def test_what_a_loader_would_read_is_named(run: Run, plant: Callable[[Path], str]) -> None:
    path = plant(newest(run))
    found = check(run)
    assert ([problem.path for problem in found.problems], found.resumable) == ([path], False)
    assert "is not in the manifest" in found.problems[0].what and "would read it" in found.problems[0].what


def test_code_is_planted_where_a_config_names_it(tmp_path: Path) -> None:
    config = b'{"auto_map": {"AutoModel": "modeling_mine.Mine", "AutoTokenizer": ["org/repo--theirs.T", null]}}'
    run = make_run_of(tmp_path / "run", *FILES, config=config)
    for name in ("modeling_mine.py", "theirs.py", "train.py"):
        (newest(run) / name).write_text("print()")
    found = check(run)
    assert [str(problem) for problem in found.problems] == [
        "modeling_mine.py is not in the manifest (an extra file), and a config names it as the model's code"
    ]
    assert [entry.path for entry in found.added] == ["theirs.py", "train.py"]


def test_what_operating_systems_drop_is_not_even_said(run: Run) -> None:
    (newest(run) / ".DS_Store").write_bytes(b"x")
    (newest(run) / "state" / ".nfs0001").write_bytes(b"x")
    assert check(run) == Verification(run.checkpoints[-1], ())


def test_a_directory_behind_a_link_is_not_followed(run: Run, tmp_path: Path) -> None:
    (newest(run) / "state").rename(tmp_path / "elsewhere")
    (newest(run) / "state").symlink_to(tmp_path / "elsewhere")
    assert [problem.path for problem in check(run).problems] == ["state/optimizer.bin", "state"]


def test_a_checkpoint_that_vanished_lacks_every_file(run: Run) -> None:
    checkpoint = run.checkpoints[-1]
    shutil.rmtree(newest(run))
    assert {problem.path for problem in run.verify(checkpoint).problems} == set(FILES)


LARGE = 2 * CHUNK_BYTES + 77


@pytest.fixture
def large(tmp_path: Path) -> tuple[LocalStore, FileEntry]:
    """A file of three chunks in the directory `c`."""
    (tmp_path / "c").mkdir()
    (tmp_path / "c" / "f").write_bytes(bytes(range(256)) * (LARGE // 256) + bytes(LARGE % 256))
    store = LocalStore(tmp_path)
    return store, sealed(store, "c/f", "f", LARGE)


def test_a_large_file_is_sealed_by_its_chunks(large: tuple[LocalStore, FileEntry]) -> None:
    store, entry = large
    data = store.local_path("c/f").read_bytes()
    assert entry.digest == digest_of(data)
    starts = range(0, LARGE, CHUNK_BYTES)
    assert entry.chunk_digests == tuple(digest_of(data[start : start + CHUNK_BYTES]) for start in starts)
    heard: list[int] = []
    assert verify_files(store, "c", [entry], heard.append) == Findings()
    assert sum(heard) == LARGE


@pytest.mark.parametrize("chunks_known", [True, False])
@pytest.mark.parametrize("offset", [0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES, LARGE - 1])
def test_damage_in_a_large_file_is_named(large: tuple[LocalStore, FileEntry], offset: int, chunks_known: bool) -> None:
    store, entry = large
    with store.local_path("c/f").open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 1]))
    known = entry if chunks_known else msgspec.structs.replace(entry, chunks="")
    (problem,) = verify_files(store, "c", [known]).problems
    where = f"chunk {offset // CHUNK_BYTES}, " if chunks_known else "(digest differs)"
    assert problem.path == "f" and where in problem.what and str(store.root) not in problem.what


def test_a_large_file_that_can_not_be_opened_is_a_problem(large: tuple[LocalStore, FileEntry]) -> None:
    store, entry = large

    class Vanishing(LocalStore):
        """Lists a file that is gone, or another thing, when it is opened."""

        def walk(self, path: str) -> list[Entry]:
            return [Entry("f", "file", LARGE)]

    path = store.local_path("c/f")
    path.unlink()
    for plant in (lambda: None, lambda: os.mkfifo(path), lambda: path.unlink() or path.symlink_to("g")):
        plant()
        (problem,) = verify_files(Vanishing(store.root), "c", [entry]).problems
        assert problem.what.startswith("can't be read: ")


def test_other_stores_are_read_from_front_to_back() -> None:
    store = MemoryStore()
    store.put("c/f", bytes(LARGE))
    entry = sealed(store, "c/f", "f", LARGE)
    assert len(entry.chunk_digests or ()) == 3
    assert verify_files(store, "c", [entry]) == Findings()
    store.put("c/f", bytes(LARGE - 1) + b"x")
    assert [problem.path for problem in verify_files(store, "c", [entry]).problems] == ["f"]


class Unreadable(LocalStore):
    def chunks(self, path: str, *, size: int) -> None:  # type: ignore[override]
        raise OSError(errno.EIO, os.strerror(errno.EIO), path)


class Unlistable(LocalStore):
    def walk(self, path: str) -> None:  # type: ignore[override]
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), path)


def test_what_the_disk_refuses_to_show_is_a_problem_and_no_error(run: Run) -> None:
    files = run.checkpoints[-1].files
    unread = verify_files(Unreadable(run.path), "checkpoint-4", files).problems
    assert [str(problem) for problem in unread] == [f"{name} can't be read: Input/output error" for name in FILES]
    unlisted = verify_files(Unlistable(run.path), "checkpoint-4", files).problems
    assert [str(problem) for problem in unlisted] == [". can't be listed: Stale file handle"]
