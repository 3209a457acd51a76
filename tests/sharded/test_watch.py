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
BEAT, PATIENCE = 1.0, 6.0
TRAINS = 60.0
"""Seconds for which the training goes on beside what is watched: far longer than any of these tests may take."""


def _begin(rank: int, patience: float) -> tuple[Ranks, Watch]:
    import torch.distributed as dist

    watch.BEAT, watch.PATIENCE, watch.GRACE = BEAT, patience, patience
    dist.init_process_group("gloo")
    ranks = Ranks(rank, WORLD, patience=600, sharded=True)
    watcher = Watch(ranks, tell=lambda text: print("told", text, flush=True))
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


def _beside(rank: int, strike: Callable[[], None]) -> None:
    """A training of steps that wait for nobody, and a commit in the background that waits for all."""
    ranks, watcher = _begin(rank, PATIENCE)
    twin = ranks.twin()

    def commit() -> None:
        try:
            with watcher.beside("the commit of step 2"):
                if rank == VICTIM:
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


def test_a_commit_in_the_background_does_not_wait_for_one_that_is_stopped(tmp_path: Path) -> None:
    began = time.monotonic()
    codes = run_ranks(tmp_path, _beside, _stop, world=WORLD)
    assert time.monotonic() - began < TRAINS, codes
    assert codes[0] == codes[2] == 1, (codes, logs_of(tmp_path))
    said = log_path(tmp_path, 0).read_text()
    assert f"rank 0 ends in the commit of step 2, where it would wait in vain: rank {VICTIM} has not been heard" in said
    assert "told rank 0 ends" in said
    assert f"rank {VICTIM} has not been heard of" in log_path(tmp_path, 2).read_text(), logs_of(tmp_path)
