"""The arithmetic of the benchmark on courses whose answer is known."""

from __future__ import annotations

import pytest
from benchmarks.saves.estimator import costs, noise, quiet_step, undisturbed, windows

from tests.benchmarks.records import quiet, record


def test_nothing_disturbed_costs_nothing() -> None:
    course = record(quiet(12), [(5, 0.0, 0.0)])
    (cost,) = costs(course)
    assert cost.inflation == pytest.approx(0.0)
    assert (cost.steps, cost.overlapped) == (1, False)


def test_a_blocking_save_costs_what_it_blocks() -> None:
    steps = quiet(12)
    steps[5] += 3.0  # step 6 begins with the save at the end of step 5
    (cost,) = costs(record(steps, [(5, 3.0, 3.4)]))
    assert cost.inflation == pytest.approx(3.0)
    assert cost.blocked == pytest.approx(3.0)
    assert cost.durable == pytest.approx(3.4)
    assert cost.steps == 1


def test_what_a_background_save_takes_from_later_steps_counts_until_it_is_durable() -> None:
    steps = quiet(16)
    for index in (5, 6, 7):
        steps[index] += 0.5
    steps[12] += 9.0  # a disturbance that is not the save's
    (cost,) = costs(record(steps, [(5, 0.1, 4.2)]))
    assert cost.steps == 3
    assert cost.inflation == pytest.approx(1.5)
    assert cost.cpu == pytest.approx(3.0)


def test_saves_that_overlap_share_nothing_and_lose_nothing() -> None:
    steps = quiet(20)
    for index in range(5, 13):
        steps[index] += 0.25
    course = record(steps, [(5, 0.1, 7.0), (9, 0.1, 4.9)])
    first, second = costs(course)
    assert (first.overlapped, second.overlapped) == (True, False)
    assert [(w.first, w.last) for w in windows(course)] == [(5, 9), (9, 13)]
    assert first.inflation + second.inflation == pytest.approx(8 * 0.25)


def test_undisturbed_steps_leave_out_the_warm_up_the_windows_and_the_step_after() -> None:
    course = record(quiet(12), [(5, 0.1, 1.5)])
    assert undisturbed(course) == [3, 4, 5, 9, 10, 11, 12]


def test_warm_up_saves_cost_nobody() -> None:
    course = record(quiet(12), [(2, 0.1, 0.1), (6, 0.1, 0.1)])
    course["saves"][0]["counts"] = False
    assert [cost.step for cost in costs(course)] == [6]


def test_waiting_later_is_blocked_time() -> None:
    course = record(quiet(12), [(5, 0.1, 0.5)])
    course["saves"][0]["held"] = 0.2
    (cost,) = costs(course)
    assert cost.blocked == pytest.approx(0.3)


def test_noise_is_the_same_estimate_without_saves() -> None:
    steps = [1.0, 1.0, *([0.9, 1.1] * 6)]
    course = record(steps, [])
    assert quiet_step(course) == pytest.approx(1.0)
    assert noise(course, 2) == pytest.approx([0.0] * 5, abs=1e-9)
    assert max(noise(course, 1)) == pytest.approx(0.1)
