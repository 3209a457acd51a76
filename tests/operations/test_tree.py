"""The budget of a tree on real directories: found, refused, counted, asked for, and given under locks."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import DiskFull, KeepstepError, LayoutTooNew, SettingsError
from keepstep.operations import tree
from keepstep.operations.pinning import pin
from keepstep.operations.tree.census import Census, Counted
from keepstep.operations.tree.ledger import Ledger, TreeBusy
from keepstep.operations.tree.locks import LocksRefused, check_locks
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.stores import file_system_of
from tests.operations.runs import LOSS
from tests.racing import bytes_of

ONE = 10_000
"""Bytes of the files of every checkpoint; the manifest comes on top."""
NFS = """22 1 0:20 / / rw shared:1 - ext4 /dev/sda rw
23 22 0:21 / {} rw,relatime - nfs4 server:/export rw
"""


@pytest.fixture
def root(tmp_path: Path, no_waiting_for_the_disk: None) -> Path:
    (tmp_path / "runs").mkdir()
    return tmp_path / "runs"


def write(directory: Path) -> None:
    (directory / "model.bin").write_bytes(b"w" * (ONE - 1000))
    (directory / "optimizer.bin").write_bytes(b"o" * 1000)


@contextmanager
def session(path: Path, keep: str = "all", *, shared: bool = True) -> Iterator[Checkpointer]:
    checkpointer = Checkpointer(path, Policy.from_spec(keep, LOSS), shared=shared)
    checkpointer.begin("auto")
    try:
        yield checkpointer
    finally:
        checkpointer.close()


def save(checkpointer: Checkpointer, *steps: int) -> None:
    """The loss falls with every step, so that the newest is the best."""
    for step in steps:
        checkpointer.save(Facts(step, metrics={"eval_loss": 1 / step}), write)


def at_rest(path: Path, *steps: int, shared: bool = True) -> Run:
    with session(path, shared=shared) as checkpointer:
        save(checkpointer, *steps)
    return Run.open(path)


def steps(path: Path) -> list[int]:
    return [checkpoint.step for checkpoint in Run.open(path).checkpoints]


def counted(root: Path) -> dict[str, Counted]:
    ledger = Ledger(root)
    with ledger.locked():
        return {one.path.name: one for one in Census(root).count(ledger.claims())}


def budget_of(root: Path, saves: float) -> None:
    """A budget of so many checkpoints more than what is there."""
    tree.set_budget(root, bytes_of(root) + int(saves * ONE))


# -- the budget ------------------------------------------------------------------------------------------


def test_the_nearest_budget_counts(root: Path) -> None:
    inner = root / "project"
    inner.mkdir()
    assert tree.tree_above(root / "project" / "run") is None
    tree.set_budget(root, 100, 10)
    assert tree.tree_above(inner / "run") == root
    tree.set_budget(inner, 50)
    assert tree.tree_above(inner / "run") == inner
    (root / "link").symlink_to(inner)
    assert tree.tree_above(root / "link" / "run") == inner
    assert tree.clear_budget(inner).budget == 50
    assert not (inner / layout.TREE).exists()
    assert tree.tree_above(inner / "run") == root


def test_what_can_be_no_budget_is_refused(root: Path) -> None:
    with pytest.raises(SettingsError, match="leaves nothing"):
        tree.set_budget(root, 100, 100)
    with pytest.raises(tree.NoTreeBudget):
        tree.clear_budget(root)
    tree.set_budget(root, 100)
    (root / layout.TREE_BUDGET).write_text('{"format": 1, "budget": -5}')
    with pytest.raises(KeepstepError, match="damaged"):
        tree.must_have_budget(root)
    (root / layout.TREE_BUDGET).write_text('{"format": 2}')
    with pytest.raises(LayoutTooNew):
        tree.must_have_budget(root)


def test_nfs_is_refused_and_said(root: Path, tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    mounts.write_text(NFS.format(os.path.realpath(root)))
    assert (file_system_of(root, mounts), file_system_of(tmp_path, mounts)) == ("nfs4", "ext4")
    with pytest.raises(LocksRefused, match=r"lies on nfs4.*\n.*attach\(trainer, budget="):
        tree.set_budget(root, 100, mounts=mounts)
    assert list(root.iterdir()) == []


def test_a_mount_with_a_blank_in_its_name_is_found(root: Path, tmp_path: Path) -> None:
    (mounts := tmp_path / "mounts").write_text(NFS.format(str(tmp_path / "a b").replace(" ", "\\040")))
    assert file_system_of(tmp_path / "a b" / "runs", mounts) == "nfs4"
    assert file_system_of(tmp_path / "a bc", mounts) == "ext4"
    assert file_system_of(tmp_path, tmp_path / "none") == ""


def test_locks_that_do_not_hold_are_found_by_trying(root: Path) -> None:
    check_locks(root)
    with pytest.raises(LocksRefused, match="given a second time"):
        check_locks(root, lock=lambda descriptor, how: None)

    def none(descriptor: int, how: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    with pytest.raises(LocksRefused, match="gives no locks"):
        check_locks(root, lock=none)
    assert list(root.iterdir()) == []


def test_a_training_where_no_locks_hold_says_so_once_and_goes_on(
    root: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tree.set_budget(root, ONE)

    def refuse(root: Path) -> None:
        check_locks(root, lock=lambda descriptor, how: None)

    monkeypatch.setattr("keepstep.operations.tree.room.check_locks", refuse)
    at_rest(root / "a", 1, 2, 3)
    assert steps(root / "a") == [1, 2, 3]
    assert caplog.text.count("is not kept by this training") == 1


# -- counting --------------------------------------------------------------------------------------------


def test_what_is_counted_is_on_the_disk(root: Path) -> None:
    run = at_rest(root / "a", 1, 2, 3)
    at_rest(root / "deeper" / "b", 1)
    stray = root / "a" / "checkpoint-9"
    stray.mkdir()
    (stray / "model.bin").write_bytes(b"x" * 77)
    with run.writing():
        run.thin(run.checkpoints[0], "a try")  # hard links: its weights count once
    going = run.path / layout.TRASH / "going"
    going.mkdir()
    os.link(run.path / "checkpoint-2" / "model.bin", going / "model.bin")
    found = counted(root)
    assert sum(one.takes for one in found.values()) == bytes_of(root)
    assert {name: (one.unfinished, one.leaving) for name, one in found.items()} == {"a": (0, 0), "b": (0, 0)}


def test_half_a_save_counts_and_what_is_being_deleted_is_told_apart(root: Path) -> None:
    run = at_rest(root / "a", 1)
    before = counted(root)["a"].takes
    for room, name, size in ((layout.STAGING, "half", 300), (layout.TRASH, "going", 500), (layout.TRASH, "whole", 70)):
        place = run.path / room / name
        place.mkdir(parents=True)
        (place / "model.bin").write_bytes(b"x" * size)
    (run.path / layout.TRASH / "whole" / "keepstep.json").write_bytes(b"{}")
    found = counted(root)["a"]
    assert (found.takes - before, found.unfinished, found.leaving) == (372, 372, 500)


def test_a_claim_counts_while_its_process_lives_and_its_save_is_not_committed(root: Path) -> None:
    tree.set_budget(root, 100 * ONE)
    ledger = Ledger(root)
    run = at_rest(root / "a", 1)
    taken = counted(root)["a"].takes
    with ledger.locked():
        part = ledger.enter(run.path)
    ledger.claim(run.path, 5 * ONE, generation=2)
    assert counted(root)["a"].takes == taken + 5 * ONE
    ledger.claim(run.path, 5 * ONE, generation=1)  # committed, and not given back yet
    assert counted(root)["a"].takes == taken
    ledger.claim(run.path, 5 * ONE, generation=2)
    part.release()  # what happens when a process dies
    assert counted(root)["a"].takes == taken
    assert os.listdir(root / layout.TREE_CLAIMS) == []


# -- asking and giving -----------------------------------------------------------------------------------


def test_a_run_at_rest_that_shares_gives_its_oldest_and_one_that_does_not_gives_nothing(root: Path) -> None:
    at_rest(root / "shared", 1, 2, 3)
    at_rest(root / "own", 1, 2, 3, shared=False)
    with session(root / "now") as now:
        save(now, 1)
        budget_of(root, 0.5)
        save(now, 2)
    assert (steps(root / "shared"), steps(root / "own"), steps(root / "now")) == ([2, 3], [1, 2, 3], [1, 2])
    (event,) = [e for e in Run.open(root / "shared").events.read() if e["event"] == "removed"]
    assert event["reason"].startswith("over the budget of ") and f"for {root / 'now'}" in event["reason"]


def test_the_one_that_saved_last_longest_ago_gives_first_down_to_newest_best_pinned_and_read(root: Path) -> None:
    old, newer = at_rest(root / "z-old", 1, 2, 3, 4), at_rest(root / "a-newer", 1, 2)
    pin(old, 2)
    with session(root / "now") as now, old.reading([old.find(1)], "read"):
        save(now, 1)
        budget_of(root, 0.5)
        save(now, 2)
        assert (steps(old.path), steps(newer.path)) == ([1, 2, 4], [1, 2])
        save(now, 3)
        assert (steps(old.path), steps(newer.path)) == ([1, 2, 4], [2])
        save(now, 4)  # nobody else has anything left: its own go, the newest and the best stay
        assert (steps(old.path), steps(newer.path), steps(now.path)) == ([1, 2, 4], [2], [2, 3, 4])


def test_a_run_is_itself_under_any_name(root: Path) -> None:
    (root.parent / "link").symlink_to(root)
    with session(root.parent / "link" / "run") as now:
        save(now, 1, 2, 3)
        budget_of(root, 0.5)
        save(now, 4)
        assert steps(root / "run") == [2, 3, 4]
        assert os.listdir(root / layout.TREE_ASKS) == []


def test_a_run_below_more_directories_than_a_search_enters_keeps_the_budget(root: Path) -> None:
    deep = root / "a/b/c/d/e/f/g/h/i/j"
    with session(deep) as now:
        save(now, 1, 2, 3)
        budget_of(root, 0.5)
        save(now, 4)
    assert steps(deep) == [2, 3, 4]


def test_where_no_room_can_be_made_nothing_goes_and_the_save_is_refused(root: Path) -> None:
    at_rest(root / "shared", 1, 2)
    with session(root / "now") as now:
        save(now, 1)
        tree.set_budget(root, ONE)
        with pytest.raises(DiskFull, match=r"over the budget of 10\.0 kB of .*runs with one more of") as refused:
            save(now, 2)
        assert f"keepstep budget show {root}" in refused.value.hint
        assert (steps(root / "shared"), steps(root / "now")) == ([1, 2], [1])
        assert os.listdir(root / layout.TREE_ASKS) == []


def test_one_that_trains_is_asked_and_gives_at_its_next_save(root: Path) -> None:
    with session(root / "giver") as giver, session(root / "now") as now:
        save(giver, 1, 2, 3)
        save(now, 1)
        budget_of(root, 0.2)
        with pytest.raises(DiskFull, match="giver is asked to give up some"):
            save(now, 2)
        assert steps(root / "giver") == [1, 2, 3], "it is never touched"
        save(giver, 4)  # one goes for the other, and one for itself: what was asked for is nobody else's
        assert steps(root / "giver") == [3, 4]
        save(now, 2)
        assert (steps(root / "now"), os.listdir(root / layout.TREE_ASKS)) == ([1, 2], [])


def test_one_that_trains_and_does_not_share_gives_nothing(root: Path) -> None:
    with session(root / "own", shared=False) as own, session(root / "now") as now:
        save(own, 1, 2, 3)
        save(now, 1)
        tree.set_budget(root, bytes_of(root))
        with pytest.raises(DiskFull) as refused:
            save(now, 2)
        assert "asked" not in refused.value.message
        Ledger(root).ask(own.path, now.path, 5 * ONE)
        budget_of(root, 1.5)
        save(own, 4)
        assert steps(root / "own") == [1, 2, 3, 4]


def test_what_one_asked_for_that_is_gone_by_now_is_given_to_nobody(root: Path) -> None:
    with session(root / "giver") as giver:
        save(giver, 1, 2)
        with session(root / "now") as now:
            save(now, 1)
            tree.set_budget(root, bytes_of(root))
            with pytest.raises(DiskFull):
                save(now, 2)
            assert Ledger(root).is_asked(root / "giver")
        assert not Ledger(root).is_asked(root / "giver"), "whoever leaves asks no more"
        Ledger(root).ask(root / "giver", root / "killed", 5 * ONE)
        budget_of(root, 1.5)
        save(giver, 3)
        assert steps(root / "giver") == [1, 2, 3]


def test_half_a_save_of_a_process_that_died_goes_before_any_checkpoint(root: Path) -> None:
    dead = at_rest(root / "dead", 1, 2)
    half = dead.path / layout.STAGING / "half" / "checkpoint-3"
    half.mkdir(parents=True)
    (half / "model.bin").write_bytes(b"x" * 2 * ONE)
    with session(root / "now") as now:
        save(now, 1)
        budget_of(root, 0)
        save(now, 2)
        assert (steps(root / "dead"), half.exists()) == ([1, 2], False)
        assert os.listdir(dead.path / layout.TRASH) == []


def test_what_a_process_that_died_was_deleting_is_gone_before_a_save_is_written(root: Path) -> None:
    dead = at_rest(root / "dead", 1)
    rest = dead.path / layout.TRASH / "rest"
    rest.mkdir(parents=True)
    (rest / "model.bin").write_bytes(b"x" * 5 * ONE)

    def look(directory: Path) -> None:
        assert not rest.exists()
        write(directory)

    with session(root / "now") as now:
        save(now, 1)
        tree.set_budget(root, bytes_of(root) - 3 * ONE)
        now.save(Facts(2), look)
    assert steps(dead.path) == [1]


def test_a_run_whose_start_has_something_to_complete_gives_nothing(root: Path) -> None:
    run = at_rest(root / "moved", 1, 2, 3)
    (run.path / layout.RETURN).write_text("{}")
    with session(root / "now") as now:
        save(now, 1)
        tree.set_budget(root, bytes_of(root) + ONE // 2)
        with pytest.raises(DiskFull):
            save(now, 2)
    assert steps(root / "moved") == [1, 2, 3]


def test_a_save_that_fails_gives_its_claim_back(root: Path) -> None:
    tree.set_budget(root, 100 * ONE)

    def fail(directory: Path) -> None:
        claims = [name for name in os.listdir(root / layout.TREE_CLAIMS) if name.endswith(".json")]
        assert len(claims) == 1, "claimed while it is written"
        raise RuntimeError("a bug in a callback")

    with session(root / "now") as now:
        save(now, 1)
        with pytest.raises(RuntimeError):
            now.save(Facts(2), fail)
        assert [name for name in os.listdir(root / layout.TREE_CLAIMS) if name.endswith(".json")] == []


def test_a_lock_that_is_not_given_back_is_waited_for_and_no_longer_than_said(root: Path) -> None:
    tree.set_budget(root, ONE)
    with ExitStack() as held:
        held.enter_context(Ledger(root).locked())
        with pytest.raises(TreeBusy), Ledger(root).locked(patience=0.05):
            pass
    with Ledger(root).locked(patience=0.05):
        pass
