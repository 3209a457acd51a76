"""One rank of two is killed at a system call, in every phase of a load and of a save: the other ends, nothing is lost.

`KEEPSTEP_TEST_RANK_KILLS` is how many places are played for each rank, spread evenly; "all" plays all of them, and
"40:60" those from the 40th to before the 60th. A place that fails is said at once, with its number, and the next is
played.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.campaign.rank_victims import SENT, RankPoint, kinds, record, strike
from tests.campaign.victims import has_strace
from tests.sharded.legs import Leg, Outcome, outcome, ride
from tests.training.ranked import log_path, logs_of
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
"""In which the other ends after the victim: far less than the 30 minutes of `ddp_timeout`, on a busy machine too."""
FIRST = RankPoint("main", "sendto", 1, SENT)
AT_ONCE = 8
"""Resumes in processes that are started once."""
MISSED = "not killed"
TAIL = 9000
"""Letters of what a rank printed that are shown: a stack of all threads is among them where it hung."""


@dataclass(frozen=True)
class Struck:
    """A place that is played, and the leg in which it is."""

    number: int
    point: RankPoint
    leg: Leg

    def __str__(self) -> str:
        return f"place {self.number}, {self.point}"


@pytest.fixture
def whole(place: Path) -> Path:
    assert ride(place, Leg("whole")) == [0, 0], logs_of(place)
    return place


def chosen(points: list[RankPoint]) -> list[tuple[int, RankPoint]]:
    """Of each half, before and after the first directory of a save, as many; or those of a range."""
    numbered = list(enumerate(points))
    if CHOSEN == "all":
        return numbered
    if ":" in CHOSEN:
        first, _, end = CHOSEN.partition(":")
        return numbered[int(first or 0) : int(end or len(points))]
    count = min(int(CHOSEN), len(points))
    return [numbered[(2 * number + 1) * len(points) // (2 * count)] for number in range(count)]


@pytest.mark.parametrize("victim", [1, 0])
def test_the_other_ends_soon_and_the_newest_commit_goes_on_bit_for_bit(victim: int, whole: Path) -> None:
    # With the first that it sends a rank gives its first sign of life; who never gave one is its launcher's to miss.
    points = [one for one in kinds(record(whole, Leg("recorded", copy="whole", upto=2), victim)) if one != FIRST]
    assert len(points) > 40 and {point.thread for point in points} > {"main"}
    played = [
        Struck(number, point, Leg(f"struck-{number}", copy="whole", upto=2, limits=SHORT))
        for number, point in chosen(points)
    ]
    failed, ends, longest = list[str](), Counter[str](), 0.0
    for first in range(0, len(played), AT_ONCE):
        several = played[first : first + AT_ONCE]
        for one in several:
            try:
                end, seconds = play(whole, victim, one)
                ends[end] += 1
                longest = max(longest, seconds)
            except AssertionError as error:
                failed.append(said(one, error))
        failed += [said(one, error) for one, error in go_on(whole, several)]
    missed = ends.pop(MISSED, 0)
    print(f"rank {victim}: {sum(ends.values())} kills at {len(points)} places ({missed} did not come to theirs), "
          f"failed: {len(failed)}; the other ended within {longest:.0f} s: {dict(ends)}")  # fmt: skip
    assert not failed, "\n\n".join(failed)
    assert ":" in CHOSEN or missed <= sum(ends.values()) // 4, missed


def said(one: Struck, error: BaseException) -> str:
    text = f"{one}: {error}"
    print(text, flush=True)
    return text


def play(home: Path, victim: int, one: Struck) -> tuple[str, float]:
    """Kill the victim there; returns how the other ended, and how many seconds after it."""
    other = 1 - victim
    for rank in range(2):
        log_path(home, rank).unlink(missing_ok=True)
    try:
        codes, seconds = strike(home, one.leg, victim, one.point, dumps_after=SECONDS)
    except TimeoutError as hung:
        both = "\n".join(what_said(home, rank) for rank in (victim, other))
        raise AssertionError(f"{hung}: {both}") from None
    if codes[victim] != -signal.SIGKILL:
        assert codes == [0, 0], f"not killed: {codes} {logs_of(home)}"
        return MISSED, 0.0
    assert seconds < SECONDS, f"the other ended {seconds:.0f} s later: {what_said(home, other)}"
    return how_it_ended(home, one.leg, other, codes[other]), seconds


def what_said(home: Path, rank: int) -> str:
    return log_path(home, rank).read_text(errors="replace")[-TAIL:]


def how_it_ended(home: Path, leg: Leg, rank: int, code: int) -> str:
    """By which error; "done" where nothing was left to be done with the other."""
    if code:
        assert code == 1, f"it ended with {code}: {what_said(home, rank)}"
        return "ended by the watch"
    one = outcome(home, leg.name, rank)
    if one.error:
        return one.kind
    assert same(one, outcome(home, "whole", rank)), "the other has trained on alone"
    return "done"


def same(one: Outcome, other: Outcome) -> bool:
    return (one.weights, one.optimizer, one.history) == (other.weights, other.optimizer, other.history)


def go_on(home: Path, several: list[Struck]) -> list[tuple[Struck, AssertionError]]:
    """Resume what is left of each; it comes to the same bits. Returns those that do not, and how."""
    try:
        codes = ride(home, *[Leg(again(one), copy=one.leg.name, upto=99) for one in several])
    except TimeoutError:
        codes = [1, 1]
    if codes != [0, 0] and len(several) > 1:  # one has ended all
        for one in several:
            shutil.rmtree(home / again(one), ignore_errors=True)
        return [found for one in several for found in go_on(home, [one])]
    wrong: list[tuple[Struck, AssertionError]] = []
    for one in several:
        try:
            assert codes == [0, 0], f"its resume ended with {codes}: {logs_of(home)}"
            for rank in range(2):
                resumed = outcome(home, again(one), rank)
                assert same(resumed, outcome(home, "whole", rank)), f"resumed: {resumed.kind} {resumed.error}"
                assert resumed.receipt is not None and resumed.receipt["level"] == "exact", resumed.receipt
        except AssertionError as error:
            wrong.append((one, error))
        shutil.rmtree(home / one.leg.name)
        shutil.rmtree(home / again(one), ignore_errors=True)
    return wrong


def again(one: Struck) -> str:
    return f"{one.leg.name} again"
