"""Tests of where the bytes are: every figure against a walk over the inodes of a real run."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.checkpointer import Facts
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.operations.seeing.finding import NoDirectory
from keepstep.operations.usage import Kinds, TreeUsage, Usage, usage, usage_of_tree
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import SIZE, flip, make_run, training, write

OPTIMIZER = 100
"""Bytes of each optimizer state in these runs."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def _inodes(*roots: Path) -> dict[tuple[int, int], os.stat_result]:
    """Every inode at and below some directories, once."""
    places = [*roots]
    for root in roots:
        for directory, names, files in os.walk(root):
            places += [Path(directory, name) for name in (*names, *files)]
    return {(found.st_dev, found.st_ino): found for found in map(os.lstat, places)}


def _agrees(found: Usage | TreeUsage, *roots: Path) -> None:
    """The sums are those of the inodes, to the byte."""
    inodes = _inodes(*roots).values()
    directories = [inode for inode in inodes if os.path.stat.S_ISDIR(inode.st_mode)]  # type: ignore[attr-defined]
    assert found.kinds.total + found.directories_bytes == sum(inode.st_size for inode in inodes)
    assert found.directories_bytes == sum(inode.st_size for inode in directories)
    assert found.allocated == sum(inode.st_blocks * 512 for inode in inodes)


def _size_of_files(place: Path) -> int:
    return sum(path.stat().st_size for path in place.iterdir() if path.is_file())


def _rooms(found: Usage) -> dict[str, int]:
    return {room.name: room.size_bytes for room in found.litter}


def test_kinds_of_files(run: Run) -> None:
    found = usage(run)

    assert found.kinds.weights == 3 * (SIZE - OPTIMIZER)
    assert found.kinds.optimizer == 3 * OPTIMIZER
    assert found.kinds.litter == found.kinds.unmanaged == 0
    assert found.checkpoints_bytes == sum(checkpoint.size_bytes for checkpoint in run.checkpoints)
    assert found.records_bytes == found.kinds.other == _size_of_files(run.path / ".keepstep")
    assert [(s.checkpoint.step, s.kinds) for s in found.shares] == [
        (step, Kinds(weights=SIZE - OPTIMIZER, optimizer=OPTIMIZER)) for step in (1, 2, 3)
    ]


def test_a_walk_agrees_with_every_inode(run: Run) -> None:
    (run.path / "logs").mkdir()
    (run.path / "logs" / "events.out").write_bytes(b"x" * 12345)
    (run.path / "link").symlink_to("logs/events.out")

    found = usage(run, check=True)

    _agrees(found, run.path)
    assert found.kinds.weights == 3 * (SIZE - OPTIMIZER)
    assert not any(share.differs for share in found.shares)


@pytest.mark.skipif(shutil.which("du") is None, reason="there is no du")
def test_du_says_the_same(tmp_path: Path, run: Run) -> None:
    (tmp_path / "stock" / "checkpoint-5").mkdir(parents=True)
    (tmp_path / "stock" / "checkpoint-5" / "model.safetensors").write_bytes(b"w" * 777)
    (tmp_path / "notes.txt").write_text("notes")

    found = usage_of_tree([tmp_path], check=True)
    said = subprocess.run(["du", "-sb", tmp_path], capture_output=True, text=True, check=True).stdout

    # From coreutils 9.2 on, du -b leaves directories out.
    assert int(said.split()[0]) in (found.kinds.total, found.kinds.total + found.directories_bytes)


def test_manifests_and_the_walk_say_the_same_of_files(run: Run) -> None:
    listed, walked = usage(run), usage(run, check=True)
    manifests = sum((run.path / c.name / "keepstep.json").stat().st_size for c in run.checkpoints)
    assert walked.kinds.total == listed.kinds.total + manifests
    assert listed.allocated is None


def test_litter_by_room(run: Run) -> None:
    with run.writing():
        run.rewind(run.find(1))
        run.quarantine(run.verify(run.find(1)))
    for room, size in (("staging/ab", 11), ("trash/cd", 22), ("previous/ef", 33)):
        (run.path / ".keepstep" / room).mkdir(parents=True)
        (run.path / ".keepstep" / room / "model.safetensors").write_bytes(b"x" * size)
    (run.path / ".keepstep" / ".run.json.abc.tmp").write_bytes(b"x" * 44)

    found = usage(run)

    manifests = {path.parent.parent.parent.name: path.stat().st_size for path in run.path.rglob("keepstep.json")}
    rooms = _rooms(found)
    assert {name: rooms[name] for name in ("staging", "trash", "previous", "leftovers")} == {
        "staging": 11, "trash": 22, "previous": 33, "leftovers": 44,
    }  # fmt: skip
    assert rooms["quarantine"] == SIZE + manifests["quarantine"]
    assert (found.set_aside_bytes, found.quarantined_bytes, found.aside_bytes) == (2 * SIZE, SIZE, 3 * SIZE)
    assert {room.name: room.checkpoints for room in found.litter if room.checkpoints} == {
        "timelines": 2, "quarantine": 1,
    }  # fmt: skip
    assert found.kinds.litter == sum(rooms.values())
    _agrees(usage(run, check=True), run.path)


@pytest.mark.parametrize("check", [False, True])
def test_a_thinning_under_way_counts_its_weights_once(run: Run, check: bool) -> None:
    whole = usage(run, check=check).kinds
    with run.writing():
        run.repository.thin(run.find(1))  # and no removal of the full one, as when the process is killed here

    found = usage(run, check=check)

    assert found.kinds.weights == whole.weights
    assert _rooms(found) == {"leftovers": (run.path / "weights-1" / "keepstep.json").stat().st_size}
    if check:
        _agrees(found, run.path)


@pytest.mark.parametrize("check", [False, True])
def test_a_removal_under_way_counts_shared_files_once(run: Run, check: bool) -> None:
    whole = usage(run, check=check).kinds
    with run.writing():
        run.thin(run.find(1), "asked for", dispose=lambda key: None)

    found = usage(run, check=check)

    assert found.kinds.weights == whole.weights
    assert _rooms(found) == {"trash": OPTIMIZER}


def test_what_is_not_ours_is_not_managed(run: Run) -> None:
    stray = run.path / "checkpoint-9"
    stray.mkdir()
    (stray / "model.safetensors").write_bytes(b"w" * 555)
    (run.path / "checkpoint-10").symlink_to(stray)

    found = usage(run)

    assert {(u.path.name, u.reason) for u in found.unmanaged if not u.path.is_symlink()} == {
        ("checkpoint-9", "it has no keepstep.json")
    }
    assert found.kinds.unmanaged == 555 + len(os.fspath(stray))
    assert len(found.shares) == 3
    _agrees(usage(run, check=True), run.path)


def test_what_a_prune_and_a_thin_would_free(run: Run) -> None:
    with run.writing():
        run.set_policy(Policy.from_spec("best:1,latest:1", run.policy.metric))

    found = usage(run)

    assert found.prune_bytes == run.plan().freed_bytes
    assert [s.prune_bytes for s in found.shares] == [OPTIMIZER, SIZE, 0]
    assert [s.thin_bytes for s in found.shares] == [OPTIMIZER, OPTIMIZER, 0]

    with run.writing():
        apply_plan(run, run.plan())
    assert usage(run).checkpoints_bytes == found.checkpoints_bytes - found.prune_bytes


def test_what_is_pinned_can_not_be_thinned(run: Run) -> None:
    run.pin_board.pin(1)
    assert [s.thin_bytes for s in usage(run).shares] == [0, OPTIMIZER, 0]


def test_a_walk_tells_what_is_missing(run: Run) -> None:
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()

    assert not any(share.differs for share in usage(run).shares)
    found = usage(run, check=True)
    assert [share.checkpoint.step for share in found.shares if share.differs] == [2]
    assert found.kinds.optimizer == 2 * OPTIMIZER


def test_a_run_inside_of_a_run_is_not_counted_with_it(run: Run) -> None:
    alone = usage(run, check=True)
    inner = make_run(run.path / "then" / "dpo", {5: 0.5})

    outer = usage(run, check=True)

    assert outer.kinds == alone.kinds
    tree = usage_of_tree([run.path], check=True)
    assert [found.path for found in tree.runs] == [run.path, inner.path]
    _agrees(tree, run.path)


def test_a_tree_is_the_sum_of_its_parts(tmp_path: Path, run: Run) -> None:
    other = make_run(tmp_path / "deep" / "down" / "run", {7: 0.7})
    for place in (tmp_path / "stock" / "checkpoint-5", run.path / "old" / "checkpoint-6"):
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w" * 777)
    (tmp_path / "notes.txt").write_bytes(b"n" * 99)

    tree = usage_of_tree([tmp_path], check=True)

    _agrees(tree, tmp_path)
    assert {found.path for found in tree.runs} == {run.path, other.path}
    assert [(found.path, found.checkpoints, found.size_bytes) for found in tree.stock] == [(tmp_path / "stock", 1, 777)]
    assert tree.elsewhere_bytes == 99
    assert tree.kinds.unmanaged == 777 + 777 + 99
    assert usage_of_tree([tmp_path]).kinds.unmanaged == tree.kinds.unmanaged


def test_roots_that_overlap_count_once(tmp_path: Path, run: Run) -> None:
    alone = usage_of_tree([tmp_path], check=True)
    (tmp_path / "same").symlink_to(tmp_path)

    again = usage_of_tree([tmp_path, run.path, tmp_path / "same" / "run", tmp_path / ".." / tmp_path.name], check=True)

    assert len(again.runs) == 1
    assert again.kinds.total == alone.kinds.total + len(os.fspath(tmp_path))


def test_hard_links_between_runs_count_once(tmp_path: Path, run: Run) -> None:
    shutil.copytree(run.path, tmp_path / "copy", copy_function=os.link)
    _agrees(usage_of_tree([tmp_path], check=True), tmp_path)


def test_a_run_that_can_not_be_opened_is_counted_and_said(tmp_path: Path, run: Run) -> None:
    (run.path / layout.RUN).write_text('{"format": 1, "run_id": "a b"}')

    tree = usage_of_tree([tmp_path], check=True)

    assert tree.runs == ()
    assert [(found.path, found.checkpoints) for found in tree.stock] == [(run.path, 3)]
    assert "is damaged" in tree.stock[0].reason
    _agrees(tree, tmp_path)


def test_a_damaged_manifest_is_not_managed(run: Run) -> None:
    flip(run.path / "checkpoint-1" / "keepstep.json")
    found = usage(run)
    assert [u.path.name for u in found.unmanaged] == ["checkpoint-1"]
    _agrees(usage(run, check=True), run.path)


def test_what_vanishes_or_can_not_be_read_is_no_end(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("gone", "closed"):
        (run.path / name).mkdir()
        (run.path / name / "file").write_bytes(b"x" * 10)
    before = usage(run).records_bytes
    listed = os.scandir

    def scandir(place: str) -> object:
        if Path(place).name == "gone":
            raise FileNotFoundError(2, "No such file or directory", place)
        if Path(place).name == "closed":
            raise PermissionError(13, "Permission denied", place)
        return listed(place)

    monkeypatch.setattr(os, "scandir", scandir)
    found = usage(run)

    assert found.records_bytes == before - 20
    assert [(item.path.name, item.reason) for item in found.unreadable] == [("closed", "Permission denied")]


def test_while_a_training_holds_the_lock(run: Run) -> None:
    with training(run.path):
        assert usage(run).checkpoints_bytes == 3 * SIZE


def test_json_has_every_figure(run: Run) -> None:
    found = usage(run, check=True)
    said = found.to_json()

    assert said["kinds"] == found.kinds.to_json()
    assert sum(said["kinds"].values()) == said["size_bytes"]
    assert [row["size_bytes"] for row in said["by_checkpoint"]] == [s.kinds.total for s in found.shares]
    assert said["frees"] == {"prune_bytes": 0, "thin_bytes": 2 * OPTIMIZER}
    assert said["disk"]["free_bytes"] == found.disk.free_bytes


def test_what_is_no_directory(tmp_path: Path) -> None:
    with pytest.raises(NoDirectory):
        usage_of_tree([tmp_path / "nothing"])


def test_previous_runs_count_with_what_frees_them(run: Run) -> None:
    with training(run.path) as checkpointer:
        checkpointer.close()
        checkpointer.begin(None)
        checkpointer.save(Facts(1), write)
    (run.path / layout.PREVIOUS / "stock-1").mkdir()
    (run.path / layout.PREVIOUS / "stock-1" / "model.bin").write_bytes(b"s" * 5000)

    found = usage(Run.open(run.path))

    assert (found.previous_bytes, found.aside_bytes, found.budget_used) == (3 * SIZE, 0, 4 * SIZE)
    (room,) = [room for room in found.litter if room.name == "previous"]
    assert (room.checkpoints, room.option) == (3, "--previous")
    assert room.size_bytes > 3 * SIZE + 5000, "records and manifests too"
    shown = found.to_json()
    assert (shown["previous_bytes"], shown["budget_used_bytes"]) == (3 * SIZE, 4 * SIZE)
    assert shown["litter"][0]["prune_option"] == "--previous"
    _agrees(usage(Run.open(run.path), check=True), run.path)


def _others(root: Path) -> Path:
    """What Lightning and Accelerate leave below a directory, in a layout of each."""
    logs = root / "lightning_logs" / "version_0"
    (logs / "checkpoints" / "last.ckpt").parent.mkdir(parents=True)
    (logs / "checkpoints" / "epoch=0-step=8.ckpt").write_bytes(b"l" * 700)
    (logs / "checkpoints" / "last.ckpt").write_bytes(b"l" * 300)
    (logs / "metrics.csv").write_bytes(b"m" * 50)
    for step in (0, 10):
        place = root / "acc" / "checkpoints" / f"checkpoint_{step}"
        place.mkdir(parents=True)
        (place / "model.safetensors").write_bytes(b"w" * 90)
        (place / "optimizer.bin").write_bytes(b"o" * 180)
    (root / "acc" / "train.py").write_bytes(b"t" * 20)
    return root


@pytest.mark.parametrize("check", [False, True])
def test_what_other_writers_left_is_counted_checkpoint_by_checkpoint(tmp_path: Path, check: bool) -> None:
    root = _others(tmp_path / "all")
    make_run(root / "run", {1: 0.1})
    before = sorted(root.rglob("*"))
    tree = usage_of_tree([root], check=check)
    found = {
        other.name: (stock.path.relative_to(root).as_posix(), other) for stock in tree.stock for other in stock.others
    }
    assert {name: (place, o.writer, o.step, o.size_bytes) for name, (place, o) in found.items()} == {
        "checkpoint_0": ("acc/checkpoints", "Accelerate (save_state)", 0, 270),
        "checkpoint_10": ("acc/checkpoints", "Accelerate (save_state)", 10, 270),
        "epoch=0-step=8.ckpt": ("lightning_logs/version_0/checkpoints", "Lightning", 8, 700),
        "last.ckpt": ("lightning_logs/version_0/checkpoints", "Lightning", None, 300),
    }
    assert tree.elsewhere_bytes == 70, "what lies beside them is none of theirs"
    assert sorted(root.rglob("*")) == before
    if check:
        _agrees(tree, root)


def test_the_directory_of_another_writer_alone(tmp_path: Path) -> None:
    place = _others(tmp_path) / "acc" / "checkpoints"
    tree = usage_of_tree([place], check=True)
    assert [(stock.checkpoints, stock.size_bytes, stock.reason) for stock in tree.stock] == [
        (2, 540, "checkpoints of Accelerate (save_state)")
    ]
    _agrees(tree, place)


def test_what_lies_in_a_run_is_counted_with_the_run(run: Run) -> None:
    (run.path / "logs").mkdir()
    (run.path / "logs" / "last.ckpt").write_bytes(b"l" * 300)
    tree = usage_of_tree([run.path], check=True)
    assert not tree.stock
    _agrees(tree, run.path)
