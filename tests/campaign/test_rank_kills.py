"""One rank of two is killed at a system call, in every phase of a load and of a save: the other ends, nothing is lost.

`KEEPSTEP_TEST_RANK_KILLS` is how many places are played for each rank, spread evenly; "all" plays all of them.
"""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import time
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.campaign.rank_victims import SENT, RankPoint, kinds, record, strike
from tests.campaign.victims import has_strace
from tests.sharded.legs import Leg, Outcome, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(7200),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
    pytest.mark.skipif(not has_strace(), reason="strace is not here, or may not trace"),
]
CHOSEN = os.environ.get("KEEPSTEP_TEST_RANK_KILLS", "2")
SHORT = (0.3, 4.0, 3.0)
"""Seconds between signs of life, without one, and after a failure."""
SECONDS = 60.0
"""In which all ranks have ended: far less than the 30 minutes of `ddp_timeout`, on a busy machine too."""
FIRST = RankPoint("main", "sendto", 1, SENT)
AT_ONCE = 8
"""Resumes in processes that are started once."""


@pytest.fixture
def whole(place: Path) -> Path:
    assert ride(place, Leg("whole")) == [0, 0], logs_of(place)
    return place


def chosen(points: list[RankPoint]) -> list[RankPoint]:
    """Of each half, before and after the first directory of a save, as many."""
    count = len(points) if CHOSEN == "all" else min(int(CHOSEN), len(points))
    return [points[(2 * number + 1) * len(points) // (2 * count)] for number in range(count)]


@pytest.mark.parametrize("victim", [1, 0])
def test_the_other_ends_soon_and_the_newest_commit_goes_on_bit_for_bit(victim: int, whole: Path) -> None:
    # With the first that it sends a rank gives its first sign of life; who never gave one is its launcher's to miss.
    points = [one for one in kinds(record(whole, Leg("recorded", copy="whole", upto=2), victim)) if one != FIRST]
    assert len(points) > 40 and {point.thread for point in points} > {"main"}
    struck: list[tuple[Leg, RankPoint]] = []
    missed, ends, longest = 0, Counter[str](), 0.0
    for number, point in enumerate(chosen(points)):
        leg = Leg(f"struck-{number}", copy="whole", upto=2, limits=SHORT)
        began = time.monotonic()
        try:
            codes = strike(whole, leg, victim, point)
        except TimeoutError as error:
            raise AssertionError(f"killed at {point}, and the other hangs: {logs_of(whole)}") from error
        took = time.monotonic() - began
        longest = max(longest, took)
        assert took < SECONDS, f"{point}: {took:.0f} s"
        if codes[victim] != -signal.SIGKILL:
            assert codes == [0, 0], (point, codes, logs_of(whole))
            missed += 1
        else:
            ends[how_it_ended(whole, leg, 1 - victim, codes[1 - victim], point)] += 1
        struck.append((leg, point))
        if len(struck) == AT_ONCE:
            go_on(whole, struck)
    go_on(whole, struck)
    print(f"rank {victim}: {sum(ends.values())} kills at {len(points)} places ({missed} did not come to theirs), "
          f"failed resumes: 0; the other ended within {longest:.0f} s: {dict(ends)}")  # fmt: skip
    assert missed <= sum(ends.values()) // 4, missed


def how_it_ended(home: Path, leg: Leg, rank: int, code: int, point: RankPoint) -> str:
    """By which error; "done" where nothing was left to be done with the other."""
    if code:
        assert code == 1, (str(point), code, logs_of(home))
        return "ended by the watch"
    one = outcome(home, leg.name, rank)
    if one.error:
        return one.kind
    assert same(one, outcome(home, "whole", rank)), f"{point}: the other has trained on alone"
    return "done"


def same(one: Outcome, other: Outcome) -> bool:
    return (one.weights, one.optimizer, one.history) == (other.weights, other.optimizer, other.history)


def go_on(home: Path, struck: list[tuple[Leg, RankPoint]]) -> None:
    """Resume what is left of each; it comes to the same bits."""
    legs = [Leg(f"{leg.name} again", copy=leg.name, upto=99) for leg, _ in struck]
    assert ride(home, *legs) == [0, 0], logs_of(home)
    for (leg, point), rank in itertools.product(struck, range(2)):
        one, reference = outcome(home, f"{leg.name} again", rank), outcome(home, "whole", rank)
        assert same(one, reference), f"killed at {point}: {one.kind} {one.error}"
        assert one.receipt is not None and one.receipt["level"] == "exact", (str(point), one.receipt)
    for leg, _ in struck:
        shutil.rmtree(home / leg.name)
        shutil.rmtree(home / f"{leg.name} again")
    struck.clear()
