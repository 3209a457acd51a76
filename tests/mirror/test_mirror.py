"""A run and its mirror, through the operations: sent, fenced, brought back, tidied; in a directory and in S3."""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, MirrorOfAnother, RunInUse, RunNotFound
from keepstep.mirror import (
    DirectoryObjects,
    Mirror,
    Pace,
    Progress,
    Writer,
    check,
    open_mirror,
    orphans,
    push,
    removing,
)
from keepstep.model import Kind
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.status import status
from keepstep.operations.mirroring.syncing import Synced, sync
from keepstep.retention import Metric, Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, flip, make_run


def _sync(run: Run, mirror: Mirror, keep: str = "all", **options: object) -> Synced:
    policy = Policy.from_spec(keep, LOSS)
    plan = plan_mirror(run, mirror, mirror.records(), policy)
    return sync(run, mirror, policy, plan, **options)  # type: ignore[arg-type]


def _steps(mirror: Mirror) -> list[int]:
    return [record.checkpoint.step for record in mirror.records()]


def _pull(mirror: Mirror, target: Path, reference: str = "latest") -> Run:
    bring(mirror, plan_pull(mirror, target, reference), older=reference == "latest")
    return Run.open(target)


def _flip(mirror: Mirror, key: str) -> None:
    data = bytearray(mirror.objects.read(key, limit=1 << 20))
    data[10] ^= 1
    mirror.objects.put(key, [bytes(data)], len(data))


def test_what_is_sent_comes_back_and_is_a_run(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.3, 30: 0.4}, keep="best:3,latest:2")
    mirror = open_mirror(address)
    done = _sync(run, mirror)
    assert [record.checkpoint.step for record in done.sent] == [30, 20, 10] and done.exclusive and not done.failed
    assert _steps(mirror) == [30, 20, 10]
    there = _pull(open_mirror(address), tmp_path / "elsewhere")
    assert there.id == run.id and there.policy == run.policy
    [came] = there.checkpoints
    assert (came.step, came.generation, came.metrics) == (30, 3, run.checkpoints[-1].metrics)
    assert all(not there.repository.verify(checkpoint).problems for checkpoint in there.checkpoints)
    # It goes on: the next commit is of a later generation, and what is older can come too.
    point = there.resume_point()
    assert point is not None and point.checkpoint.step == 30
    assert [c.generation for c in make_run(tmp_path / "elsewhere", {40: 0.2}).checkpoints] == [3, 4]
    assert _pull(mirror, tmp_path / "elsewhere", "20").find(20).metrics == run.find(20).metrics
    assert _pull(mirror, tmp_path / "best", "best").checkpoints[0].step == 20
    for name in ("model.safetensors", "optimizer.pt"):
        data = mirror.objects.read(f"{mirror.records()[0].home}/{name}", limit=1000)
        assert data == (run.path / "checkpoint-30" / name).read_bytes()


def test_a_sync_sends_what_is_missing_and_no_more(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = open_mirror(address)
    assert len(_sync(run, mirror).sent) == 1
    assert _sync(run, mirror).sent == ()
    make_run(tmp_path / "run", {20: 0.4})
    heard: list[int] = []
    assert [r.checkpoint.step for r in _sync(run, mirror, on_bytes=heard.append).sent] == [20]
    assert sum(heard) == 1000


def test_a_policy_of_its_own(tmp_path: Path, address: str) -> None:
    losses = {10: 0.1, 20: 0.5, 30: 0.2, 40: 0.6}
    run = make_run(tmp_path / "run", losses)
    mirror = open_mirror(address)
    _sync(run, mirror)
    done = _sync(run, mirror, "best:1,latest:1")
    assert sorted(record.checkpoint.step for record in done.dropped) == [20, 30]
    assert [record.checkpoint.step for record in done.thinned] == [10]
    newest, thinned = mirror.records()
    assert (newest.checkpoint.step, thinned.checkpoint.kind) == (40, Kind.WEIGHTS)
    held = {item.key for record in (newest, thinned) for item in mirror.objects.list(record.home)}
    assert held == {item.key for item in mirror.objects.list("data")}
    assert not any(key.startswith(thinned.home) and key.endswith("optimizer.pt") for key in held)
    assert check(mirror, thinned) == () == check(mirror, newest)
    there = _pull(mirror, tmp_path / "weights", "10")
    assert there.checkpoints[0].name == "weights-10"
    # Another machine sends what the policy thins as weights from the first.
    other = open_mirror(tmp_path / "second")
    _sync(run, other, "best:1,latest:1")
    assert [(r.checkpoint.step, r.checkpoint.kind) for r in other.records()] == [(40, "full"), (10, "weights")]


def test_pinned_stays_and_a_removal_at_home_is_no_removal_there(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4, 30: 0.3})
    mirror = open_mirror(address)
    _sync(run, mirror)
    run.pin_board.pin(run.find(10).generation)
    with run.writing():
        run.remove(run.find(20), "by hand")
    assert _steps(mirror) == [30, 20, 10] and _sync(run, mirror).dropped == ()
    assert [record.checkpoint.step for record in _sync(run, mirror, "latest:1").dropped] == [20]
    assert _steps(mirror) == [30, 10]


def test_a_rewind_at_home_is_one_there_once_something_newer_is(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4, 30: 0.3})
    mirror = open_mirror(address)
    _sync(run, mirror)
    with run.writing():
        run.rewind(run.find(10))
    assert _sync(run, mirror).dropped == () and _steps(mirror) == [30, 20, 10]
    make_run(tmp_path / "run", {15: 0.2})
    assert {r.checkpoint.step for r in _sync(Run.open(run.path), mirror).dropped} == {20, 30}
    assert _steps(mirror) == [15, 10]


def test_what_rotted_at_home_is_not_sent(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    flip(run.path / "checkpoint-20" / "model.safetensors")
    mirror = open_mirror(address)
    done = _sync(run, mirror)
    assert [(c.step, "not what was committed" in why) for c, why in done.failed] == [(20, True)]
    assert _steps(mirror) == [10]


def test_of_the_newest_that_rotted_there_the_next_older_comes(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    mirror = open_mirror(address)
    _sync(run, mirror)
    newest = mirror.records()[0]
    _flip(mirror, f"{newest.home}/model.safetensors")
    assert "has other bytes" in check(mirror, newest)[0]
    passed: list[str] = []
    bring(mirror, plan_pull(mirror, tmp_path / "there", "latest"), older=True, on_damage=passed.append)
    assert [c.step for c in Run.open(tmp_path / "there").checkpoints] == [10]
    assert len(passed) == 1 and "step 20 is passed over" in passed[0]
    with pytest.raises(CheckpointCorrupt, match="has other bytes"):
        bring(mirror, plan_pull(mirror, tmp_path / "exactly", "20"))
    assert not (tmp_path / "exactly" / "checkpoint-20").exists()
    mirror.objects.delete([f"{newest.home}/model.safetensors"])
    assert "is gone, though committed" in check(mirror, newest)[0]
    _flip(mirror, newest.key)
    assert _steps(open_mirror(address)) == [10]


def test_a_local_run_that_is_newer_wins(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    mirror = open_mirror(address)
    _sync(run, mirror)
    make_run(tmp_path / "run", {30: 0.4})
    with run.writing():
        run.remove(run.find(20), "by hand")
    assert plan_pull(mirror, run.path, "latest").settled == "the run there has a newer one"
    assert plan_pull(mirror, run.path, "10").settled == "it is there already, as checkpoint-10"
    assert plan_pull(mirror, run.path, "20").settled == ""
    make_run(tmp_path / "other", {10: 0.5})
    with pytest.raises(RunInUse, match="holds another run"):
        plan_pull(mirror, tmp_path / "other", "latest")


def test_a_mirror_has_one_run_and_one_writer(tmp_path: Path, address: str) -> None:
    run, other = make_run(tmp_path / "run", {10: 0.5}), make_run(tmp_path / "other", {10: 0.5})
    mirror = open_mirror(address)
    with pytest.raises(RunNotFound, match="no mirror at"):
        mirror.run_id()
    first = Writer.claim(mirror, run.id)
    with pytest.raises(MirrorOfAnother, match=f"of run {run.id}, not of {other.id}"):
        Writer.claim(mirror, other.id)
    first.check()
    second = Writer.claim(open_mirror(address), run.id)
    assert (first.epoch, second.epoch) == (1, 2)
    checkpoint = run.find(10)
    with pytest.raises(MirrorOfAnother, match="taken over by a later writer"):
        push(first, run.store, checkpoint, checkpoint.name, Progress(run.store, mirror.url))
    assert _steps(mirror) == []
    push(second, run.store, checkpoint, checkpoint.name, Progress(run.store, mirror.url))
    assert _steps(mirror) == [10]


def test_a_takeover_in_the_middle_leaves_no_commit(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = open_mirror(address)
    writer = Writer.claim(mirror, run.id)
    put = mirror.objects.put

    def taken_over(key: str, *arguments: object) -> None:
        put(key, *arguments)  # type: ignore[arg-type]
        if key.endswith("keepstep.json"):
            Writer.claim(open_mirror(address), run.id)

    monkeypatch.setattr(mirror.objects, "put", taken_over)
    with pytest.raises(MirrorOfAnother):
        push(writer, run.store, run.find(10), "checkpoint-10", Progress(run.store, mirror.url))
    assert _steps(mirror) == []


def test_files_that_were_sent_whole_are_not_sent_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = open_mirror(tmp_path / "mirror")
    put, sent = mirror.objects.put, []

    def once(key: str, *arguments: object) -> None:
        if sent and sent[0] != "again":
            raise KeyboardInterrupt
        put(key, *arguments)  # type: ignore[arg-type]
        sent.append(key)

    monkeypatch.setattr(mirror.objects, "put", once)
    with pytest.raises(KeyboardInterrupt):
        _sync(run, mirror, jobs=1)
    first, sent[:] = list(sent), ["again"]
    _sync(run, mirror, jobs=1)
    assert len(first) == 1 and sent.count(first[0]) == 0
    assert check(mirror, mirror.records()[0]) == ()


class _Replacing(DirectoryObjects):
    """A place that ignores the condition."""

    def create(self, key: str, data: bytes) -> bool:
        self.put(key, [data], len(data))
        return True


def test_where_conditions_are_ignored_that_is_noticed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = Mirror(_Replacing(tmp_path / "mirror"))
    assert not _sync(run, mirror).exclusive
    assert _steps(mirror) == [10]
    # Nor does another run take it over.
    other = make_run(tmp_path / "other", {20: 0.5})
    with pytest.raises(MirrorOfAnother, match=f"of run {run.id}, not of {other.id}"):
        _sync(other, mirror)
    assert mirror.run_id() == run.id and _steps(mirror) == [10]


def test_what_a_killed_writer_left_goes_after_a_day(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    mirror = open_mirror(tmp_path / "mirror")
    _sync(run, mirror)
    for home, age in (("00000009-aaaaaaaaaaaa", 2), ("00000009-bbbbbbbbbbbb", 0)):
        mirror.objects.put(f"data/{home}/model.safetensors", [b"12345"], 5)
        then = time.time() - age * 86400
        os.utime(tmp_path / "mirror" / "data" / home / "model.safetensors", (then, then))
    writer = Writer.claim(mirror, run.id)
    assert [(o.home, o.size_bytes) for o in orphans(writer, mirror.records())] == [("data/00000009-aaaaaaaaaaaa", 5)]
    assert _sync(run, mirror).swept_bytes == 5
    assert _steps(mirror) == [20, 10] and all(check(mirror, record) == () for record in mirror.records())


def test_the_order_of_a_removal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever it is cut: what has a record is whole, or the manifest below data/ is gone too."""
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    for cut in range(4):
        mirror = open_mirror(tmp_path / f"mirror-{cut}")
        _sync(run, mirror)
        delete, done = mirror.objects.delete, [0]

        def dying(keys: list[str], delete=delete, done=done, cut=cut) -> None:
            for key in keys:
                if done[0] == cut:
                    raise KeyboardInterrupt
                delete([key])
                done[0] += 1

        monkeypatch.setattr(mirror.objects, "delete", dying)
        with pytest.raises(KeyboardInterrupt):
            removing.drop(Writer.claim(mirror, run.id), mirror.records()[1:])
        again = open_mirror(tmp_path / f"mirror-{cut}")
        assert _steps(again) == ([20, 10] if cut == 0 else [20])
        assert all(check(again, record) == () for record in again.records())


def test_how_far_it_is_behind(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = open_mirror(address)
    policy = Policy.from_spec("all", LOSS)
    found = status(run, mirror, policy)
    assert (found.lag_seconds, found.lag_steps, len(found.plan.push)) == (None, None, 1)
    _sync(run, mirror)
    assert (status(run, mirror, policy).lag_seconds, status(run, mirror, policy).lag_steps) == (0.0, 0)
    make_run(tmp_path / "run", {25: 0.4})
    found = status(run, mirror, policy)
    assert found.lag_steps == 15 and found.lag_seconds is not None and found.lag_seconds > 0


def test_references(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}, metric=Metric("eval_loss", "min"))
    mirror = open_mirror(address)
    _sync(run, mirror)
    assert [mirror.find(text).checkpoint.step for text in ("latest", "10", "step:10", "gen:1", "checkpoint-20")] == [
        20, 10, 10, 10, 20,
    ]  # fmt: skip
    with pytest.raises(CheckpointNotFound, match="holds no '30'"):
        mirror.find("30")


def test_a_pace_is_kept() -> None:
    pace = Pace(1000)
    began = time.monotonic()
    for _ in range(3):
        pace.wait(100)
    assert time.monotonic() - began >= 0.2


def _kills() -> Iterator[float]:
    generator = random.Random(7)
    yield from (generator.random() for _ in range(int(os.environ.get("KEEPSTEP_TEST_PUSHES", "4"))))


@pytest.mark.quick(1)
def test_a_pusher_that_is_killed_anywhere_leaves_a_mirror_that_can_be_pulled(
    tmp_path: Path, address: str, fresh: Callable[[str], Path]
) -> None:
    run = make_run(tmp_path / "run", {1: 0.9})
    mirror = open_mirror(address)
    _sync(run, mirror)
    for number, share in enumerate(_kills()):
        make_run(run.path, {2 + number: 0.8})
        before = _steps(open_mirror(address))
        ready, go = os.pipe()
        child = os.fork()
        if child == 0:
            os.set_inheritable(go, True)
            # A program of its own: the object store's threads are lost in a fork.
            os.execv(sys.executable, [sys.executable, "-c", _PUSHER, str(run.path), address, str(go)])
        os.close(go)
        os.read(ready, 1)
        time.sleep(share * 0.15)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        os.close(ready)
        after = _steps(open_mirror(address))
        # What an earlier one did not get to may follow, after the newest.
        assert after == before or (after[0] == 2 + number and set(before) < set(after))
        there = _pull(open_mirror(address), fresh(f"pulled-{number}"))
        assert there.checkpoints[0].step == after[0]
    _sync(run, open_mirror(address))
    assert _steps(open_mirror(address)) == [c.step for c in reversed(Run.open(run.path).checkpoints)]


_PUSHER = """
import os, sys
from pathlib import Path
from keepstep.mirror import open_mirror
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
run, mirror, policy = Run.open(sys.argv[1]), open_mirror(sys.argv[2]), Policy.from_spec("all")
plan = plan_mirror(run, mirror, mirror.records(), policy)
os.write(int(sys.argv[3]), b"!")
sync(run, mirror, policy, plan)
"""
