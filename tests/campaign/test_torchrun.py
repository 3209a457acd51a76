"""Two ranks below `keepstep run` and torchrun, ended in mid-training in every way, and started again: the same weights.

`KEEPSTEP_TEST_KILLS` says how often.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

pytest.importorskip("transformers")

from benchmarks.preempted.training import KEEPSTEP, STOCK

from keepstep import open_run
from tests.supervision.commands import is_alive

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]
ROOT = Path(__file__).parents[2]
WORLD, LONGEST = 2, 1800
WAYS = (("SIGTERM", 1), ("SIGKILL", 0), ("SIGKILL", None), ("SIGKILL", 1), ("SIGUSR2", 0))
"""A signal, and the rank that gets it; None is torchrun itself, which leaves its workers behind."""


def torchrun(kind: str, home: Path) -> list[str]:
    home.mkdir(parents=True, exist_ok=True)
    options = ["--standalone", "--nproc-per-node", str(WORLD), "-m", "benchmarks.preempted.training"]
    return [sys.executable, "-m", "torch.distributed.run", *options, kind, str(home)]


def environment() -> dict[str, str]:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def lines(home: Path, rank: int) -> list[list[str]]:
    try:
        return [line.split() for line in (home / f"diary-{rank}").read_text().splitlines()]
    except FileNotFoundError:
        return []


class Killer(threading.Thread):
    """In each life, once it has trained some steps, tells one of its processes to end."""

    def __init__(self, home: Path, ways: Sequence[tuple[str, int | None]]) -> None:
        super().__init__(daemon=True)
        self._home, self._ways = home, list(ways)

    def run(self) -> None:
        """Until all was done."""
        seen = 0
        for name, rank in self._ways:
            while sum(what == "step" for what, *_ in lines(self._home, 0)[seen:]) < 3:
                time.sleep(0.02)
            pids = [[int(n) for what, n, _ in lines(self._home, one) if what == "alive"][-1] for one in range(WORLD)]
            agent = int(Path(f"/proc/{pids[0]}/stat").read_text().rpartition(")")[2].split()[1])
            os.kill(agent if rank is None else pids[rank], signal.Signals[name])
            while any(map(is_alive, pids)):
                time.sleep(0.02)
            seen = len(lines(self._home, 0))


def supervised(home: Path, kind: str, ways: Sequence[tuple[str, int | None]], *options: str) -> list[str]:
    """A training below `keepstep run`, ended in these ways and gone on with; the kinds of its ends."""
    words = [sys.executable, "-m", "keepstep", "run", "--backoff", "10ms", "--max-restarts", "50", *options]
    Killer(home, ways).start()
    done = subprocess.run(
        [*words, "--", *torchrun(kind, home)], env=environment(), capture_output=True, text=True, check=False,
        timeout=LONGEST,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-5000:]
    told = (home / "run/.keepstep/supervised/attempts.jsonl").read_text().splitlines()
    return [event["kind"] for event in map(json.loads, told) if "kind" in event]


def test_two_ranks_ended_in_mid_training_go_on_to_the_same_weights(tmp_path: Path) -> None:
    times = int(os.environ.get("KEEPSTEP_TEST_KILLS", "3"))
    stock = torchrun(STOCK, tmp_path / "stock")
    subprocess.run(stock, env=environment(), capture_output=True, check=True, timeout=LONGEST)
    whole = (tmp_path / "stock/final-0").read_text()

    ways = [WAYS[number % len(WAYS)] for number in range(times)]
    kinds = supervised(tmp_path / "attached", STOCK, ways, "--attach", "--grace", "20s")
    expected = ["preempted" if name != "SIGKILL" else "signal" for name, _ in ways]
    print(kinds)
    assert kinds == [*expected, "done"]
    assert (tmp_path / "attached/final-0").read_text() == whole
    resumed = [event for event in open_run(tmp_path / "attached/run").events.read() if event["event"] == "resumed"]
    assert len(resumed) == times and {event["level"] for event in resumed} == {"exact"}

    # Nothing of ours runs inside: torchrun says 1, and what it was stands in the run's event log alone.
    run = str(tmp_path / "own/run")
    assert supervised(tmp_path / "own", KEEPSTEP, [("SIGTERM", 1)], "--no-hook", "--run", run) == ["preempted", "done"]
    assert (tmp_path / "own/final-0").read_text() == whole
