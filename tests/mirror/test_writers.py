"""Several writers of one mirror, an emptied place, and clocks that are wrong: on every kind of place."""

from __future__ import annotations

import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from keepstep.errors import RunNotFound
from keepstep.mirror import Mirror, Progress, Writer, check, open_mirror, orphans, push, removing
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import Synced, sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, make_run


def _sync(run: Run, mirror: Mirror, keep: str = "all") -> Synced:
    policy = Policy.from_spec(keep, LOSS)
    return sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))


def _empty(mirror: Mirror) -> None:
    mirror.objects.delete([item.key for item in list(mirror.objects.list(""))])


def test_of_claims_at_once_each_has_an_epoch_of_its_own(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    Writer.claim(open_mirror(address), run.id)
    with ThreadPoolExecutor(6) as pool:
        claims = list(pool.map(lambda _: Writer.claim(open_mirror(address), run.id), range(6)))
    assert sorted(claim.epoch for claim in claims) == [2, 3, 4, 5, 6, 7] and all(claim.exclusive for claim in claims)


def test_two_processes_that_push_at_once_leave_one_whole_mirror(tmp_path: Path, address: str) -> None:
    run = make_run(tmp_path / "run", {step: 1 / step for step in range(1, 9)})
    command = [sys.executable, "-m", "tests.mirror.pusher", str(run.path), address, "all"]
    pushers = [subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    said = [pusher.communicate(timeout=240)[1] for pusher in pushers]
    codes = sorted(pusher.returncode for pusher in pushers)
    assert 0 in codes, said
    assert all("taken over by a later writer" in text for text, p in zip(said, pushers, strict=True) if p.returncode)
    mirror = open_mirror(address)
    _sync(run, mirror)
    assert [record.checkpoint.step for record in mirror.records()] == [8, 7, 6, 5, 4, 3, 2, 1]
    assert all(check(mirror, record) == () for record in mirror.records())
    assert len(list(mirror.names())) == 8


def test_a_place_that_was_emptied_meanwhile_is_a_mirror_again(tmp_path: Path, address: str) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5, 20: 0.4}), open_mirror(address)
    writer = Writer.claim(mirror, run.id)
    push(writer, run.store, run.find(10), "checkpoint-10", Progress(run.store, mirror.url))
    _empty(mirror)
    with pytest.raises(RunNotFound):
        open_mirror(address).run_id()
    push(writer, run.store, run.find(20), "checkpoint-20", Progress(run.store, mirror.url))
    again = open_mirror(address)
    assert again.run_id() == run.id and [record.checkpoint.step for record in again.records()] == [20]
    assert Writer.claim(again, run.id).epoch == writer.epoch + 1


def test_what_is_left_is_judged_by_the_clock_there(
    tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, mirror = make_run(tmp_path / "run", {10: 0.5}), open_mirror(address)
    _sync(run, mirror)
    mirror.objects.put("data/00000009-aaaaaaaaaaaa/model.safetensors", [b"12345"], 5)
    now = time.time
    for jump in (400 * 86400, -400 * 86400):
        monkeypatch.setattr(time, "time", lambda jump=jump: now() + jump)
        assert _sync(run, mirror).swept_bytes == 0
        assert [record.checkpoint.step for record in open_mirror(address).records()] == [10]
    monkeypatch.setattr(removing, "ORPHAN_AGE", 1.0)
    time.sleep(2.2)  # a store's clock may show whole seconds
    [orphan] = orphans(Writer.claim(mirror, run.id), mirror.records())
    assert orphan.size_bytes == 5 and _sync(run, mirror).swept_bytes == 5
    assert all(check(mirror, record) == () for record in mirror.records())
