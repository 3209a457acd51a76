"""Who waits for others knows whether they are there: it ends in bounded time, and says which rank is gone.

Plain processes with a group of gloo: nothing is trained.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from keepstep.errors import RankLost
from keepstep.snapshot import watch
from keepstep.snapshot.ranks import Ranks
from keepstep.snapshot.watch import Watch
from tests.training.ranked import log_path, logs_of, run_ranks

pytestmark = [pytest.mark.training, pytest.mark.timeout(240)]
WORLD, VICTIM = 3, 1
BEAT, PATIENCE, LONG = 1.0, 6.0, 10.0
TRAINS = 60.0
"""Seconds for which the training goes on beside what is watched: far longer than any of these tests may take."""


def _told(text: str) -> None:
    print("told", text, flush=True)


def _begin(rank: int, patience: float, tell: Callable[[str], None] = _told) -> tuple[Ranks, Watch]:
    import torch.distributed as dist

    watch.BEAT, watch.PATIENCE, watch.GRACE, watch.LAST_WORDS = BEAT, patience, patience, BEAT
    dist.init_process_group("gloo")
    ranks = Ranks(rank, WORLD, patience=600, sharded=True)
    watcher = Watch(ranks, tell=tell)
    watcher.start()
    ranks.twin()
    return ranks, watcher


def _killed(rank: int) -> None:
    ranks, watcher = _begin(rank, TRAINS)
    try:
        with watcher.over("the save of step 1"):
            ranks.together(lambda: rank)  # all are connected to all
        with watcher.over("the save of step 2"):
            if rank == VICTIM:
                os.kill(os.getpid(), signal.SIGKILL)
            ranks.together(lambda: rank)
    except RankLost as lost:
        print(f"LOST {lost.message}", flush=True)


def _not_met(rank: int) -> None:
    """A rank that is gone before a new group of all is connected, where nobody has said that he is watched.

    Nor is there anything that takes note of it.
    """
    ranks, _ = _begin(rank, PATIENCE, tell=lambda text: time.sleep(2 * TRAINS))
    if rank == VICTIM:
        os.kill(os.getpid(), signal.SIGKILL)
    ranks.new_group()
    print("MET", flush=True)


def _paused(rank: int) -> None:
    """All are stopped while they wait for each other, as a scheduler does it: rank 0 last, and it goes on first."""
    ranks, watcher = _begin(rank, LONG)
    pids = ranks.together(os.getpid)
    with watcher.over("the save of step 1"):
        if ranks.leads and os.fork() == 0:
            time.sleep(2 * BEAT)
            _signal(pids[1:], signal.SIGSTOP)
            time.sleep(1.5 * BEAT)  # rank 0 has looked at the others since
            _signal(pids[:1], signal.SIGSTOP)
            time.sleep(LONG + BEAT)
            _signal(pids[:1], signal.SIGCONT)
            time.sleep(1.5 * BEAT)
            _signal(pids[1:], signal.SIGCONT)
            os._exit(0)
        ranks.together(lambda: time.sleep(0 if ranks.leads else 4 * BEAT))
    time.sleep(3 * BEAT)  # who is about to end lets others read why before it does
    ranks.together(lambda: rank)


def _signal(pids: list[int], number: int) -> None:
    for pid in pids:
        os.kill(pid, number)


def _beside(rank: int, victim: int, strike: Callable[[], None]) -> None:
    """A training of steps that wait for nobody, and a commit in the background that waits for all."""
    ranks, watcher = _begin(rank, PATIENCE)
    twin = ranks.twin()

    def commit() -> None:
        try:
            with watcher.beside("the commit of step 2"):
                if rank == victim:
                    strike()
                twin.together(lambda: rank)
        except RankLost as lost:
            print(f"LOST {lost.message}", flush=True)
            os._exit(1)

    threading.Thread(target=commit).start()
    time.sleep(TRAINS)


def _stop() -> None:
    """Stop this process for good; another one ends it, so that the test does."""
    stopped = os.getpid()
    if os.fork() == 0:
        time.sleep(PATIENCE + 6)
        os.kill(stopped, signal.SIGKILL)
        os._exit(0)
    os.kill(stopped, signal.SIGSTOP)


def test_a_rank_that_is_killed_is_named_to_all_others(tmp_path: Path) -> None:
    codes = run_ranks(tmp_path, _killed, world=WORLD)
    assert codes[VICTIM] == -signal.SIGKILL, logs_of(tmp_path)
    for rank in {*range(WORLD)} - {VICTIM}:
        said = log_path(tmp_path, rank).read_text()
        assert f"LOST rank {VICTIM} is gone, in the save of step 2" in said, logs_of(tmp_path)


@pytest.mark.long
def test_a_rank_that_is_gone_before_all_have_met_is_not_waited_for(tmp_path: Path) -> None:
    began = time.monotonic()
    codes = run_ranks(tmp_path, _not_met, world=WORLD)
    assert time.monotonic() - began < TRAINS, codes
    assert codes == [1, -signal.SIGKILL, 1], (codes, logs_of(tmp_path))
    for rank in (0, 2):
        assert f"rank {VICTIM} has not been heard of" in log_path(tmp_path, rank).read_text(), logs_of(tmp_path)


@pytest.mark.parametrize("victim", [VICTIM, 0])
@pytest.mark.long
def test_a_commit_in_the_background_does_not_wait_for_one_that_is_stopped(victim: int, tmp_path: Path) -> None:
    began = time.monotonic()
    codes = run_ranks(tmp_path, _beside, victim, _stop, world=WORLD)
    assert time.monotonic() - began < TRAINS, codes
    others = [rank for rank in range(WORLD) if rank != victim]
    assert {codes[rank] for rank in others} == {1}, (codes, logs_of(tmp_path))
    first, *rest = [log_path(tmp_path, rank).read_text() for rank in others]
    why = f"rank {victim} has not been heard of" if victim else "rank 0, which has the store of the process group, has"
    assert f"rank {others[0]} ends in the commit of step 2, where it would wait in vain: {why}" in first
    assert f"told rank {others[0]} ends" in first
    assert all(why in said for said in rest), logs_of(tmp_path)


@pytest.mark.long
def test_who_was_stopped_with_all_others_goes_on_with_them(tmp_path: Path) -> None:
    assert run_ranks(tmp_path, _paused, world=WORLD) == [0, 0, 0], logs_of(tmp_path)
