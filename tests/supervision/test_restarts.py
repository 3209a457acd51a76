"""Whether a command is started again, as arithmetic: counts, back-off, repetition, and the way back."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from keepstep.supervision.ends import Ending, Kind
from keepstep.supervision.restarts import EARLY_SECONDS, LONGEST_SECONDS, Decision, Limits, Restarts, What

CRASH = Ending(Kind.SIGNAL, 137, "ended by SIGKILL", step=10)
ERROR = Ending(Kind.ERROR, 1, "ValueError: x", "ValueError in f.py:f:1 at step 10", step=10)


def decide(restarts: Restarts, ending: Ending, *, committed: bool | None = False, back: bool = False) -> Decision:
    return restarts.decide(ending, told=False, committed=committed, may_go_back=back)


def test_waits_double_up_to_a_limit_and_are_spread_over_their_upper_half() -> None:
    restarts = Restarts(Limits(100, 100, 4.0), draw=random.Random(1))
    waits = [decide(restarts, CRASH).delay for _ in range(12)]
    for number, wait in enumerate(waits):
        whole = min(4.0 * 2**number, LONGEST_SECONDS)
        assert whole / 2 <= wait <= whole
    assert len({round(wait / 4.0 / 2**number, 9) for number, wait in enumerate(waits[:7])}) == 7


def test_a_commit_begins_the_count_and_the_wait_anew() -> None:
    restarts = Restarts(Limits(100, 2, 1.0))
    for committed in (False, False, True, False, True, False):
        decision = decide(restarts, CRASH, committed=committed)
        assert decision.what is What.AGAIN
    assert decision.delay <= 2.0


def test_a_crash_loop_goes_back_once_and_then_stops() -> None:
    restarts = Restarts(Limits(100, 2, 1.0))
    course = [decide(restarts, CRASH, back=True).what for _ in range(5)]
    assert course == [What.AGAIN, What.AGAIN, What.GO_BACK, What.AGAIN, What.STOP]
    assert restarts.went_back


def test_where_there_is_nothing_to_go_back_to_it_stops() -> None:
    restarts = Restarts(Limits(100, 2, 1.0))
    last = [decide(restarts, CRASH) for _ in range(3)][-1]
    assert (last.what, last.failed) == (What.STOP, True)


@pytest.mark.parametrize(
    ("second", "committed", "stops"),
    [
        (ERROR, False, True),
        (ERROR, True, False),
        (replace(ERROR, signature="ValueError in f.py:f:1 at step 11", step=11), False, False),
        (replace(ERROR, signature="KeyError in f.py:f:1 at step 10"), False, False),
    ],
)
def test_the_same_end_at_the_same_step_without_a_commit_between_is_the_last(
    second: Ending, committed: bool, stops: bool
) -> None:
    restarts = Restarts(Limits())
    assert decide(restarts, ERROR).what is What.AGAIN
    assert (decide(restarts, second, committed=committed).what is What.STOP) is stops


def test_without_a_step_only_early_ends_are_at_the_same_place() -> None:
    for seconds, stops in ((1.0, True), (EARLY_SECONDS + 1, False)):
        restarts = Restarts(Limits())
        ending = replace(ERROR, step=None, seconds=seconds)
        decide(restarts, ending, committed=None)
        assert (decide(restarts, ending, committed=None).what is What.STOP) is stops


def test_preemptions_never_use_up_the_restarts_and_wait_longer_only_in_vain() -> None:
    restarts = Restarts(Limits(0, 1, 1.0))
    preempted = Ending(Kind.PREEMPTED, 75, "saved")
    for _ in range(50):
        decision = decide(restarts, preempted, committed=True)
        assert decision.what is What.AGAIN and decision.delay <= 1.0
    assert (restarts.preemptions, restarts.crashes) == (50, 0)
    assert restarts.decide(preempted, told=True, committed=True, may_go_back=True).what is What.STOP
