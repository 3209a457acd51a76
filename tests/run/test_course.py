"""The observed course: which earlier values count, how they are compared, and what is said of it."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import pytest

from keepstep.run import Attempt, Course, Evidence, Exactness, Observer, Point, Reason, Receipt, logged_beyond
from keepstep.run import receipt_lines as lines_of
from keepstep.run.course import Logged, same_bits

NOW = datetime(2026, 11, 20, tzinfo=UTC)
STEP, GENERATION = 4, 7
"""The checkpoint that is resumed from."""


def attempt(number: int, **known: Any) -> Attempt:
    return Attempt(number, NOW, known.pop("from_step", None), known.pop("from_generation", None), 1, **known)


def resumed(number: int, level: str = "exact") -> Attempt:
    """An attempt that goes on from the checkpoint."""
    return attempt(number, from_step=STEP, from_generation=GENERATION, first_generation=20 + number, level=level)


THROUGH = attempt(1, first_generation=1)


def points(number: int, rows: Mapping[int, Mapping[str, float]]) -> list[Point]:
    return [Point(number, step, None, 0.0, dict(values)) for step, values in rows.items()]


def row(step: int, **values: float) -> dict[str, float]:
    return {"loss": 1 / step, "grad_norm": 2 / step, "learning_rate": 0.1, **values}


def rows(*steps: int, **values: float) -> dict[int, dict[str, float]]:
    return {step: row(step, **values) for step in steps}


def logged(*of: tuple[Attempt, Mapping[int, Mapping[str, float]]], exact: bool = True) -> Logged:
    """What is to be compared, of attempts and what each logged."""
    attempts = [one for one, _ in of]
    found = [point for one, rows in of for point in points(one.number, rows)]
    return logged_beyond(attempts, found, generation=GENERATION, step=STEP, exact=exact)


def observe(before: Logged, now: Iterable[tuple[int, Mapping[str, float]]]) -> tuple[Course, list[Course]]:
    """The course at the end, and what was told on the way."""
    observer = Observer(before)
    told = [course for step, values in now if (course := observer.take(step, values))]
    told += [course] if (course := observer.end()) else []
    return observer.course, told


# -- which values count --------------------------------------------------------------------------------------


def test_the_attempt_that_trained_through_the_checkpoint_counts() -> None:
    before = logged((attempt(1, first_generation=1), rows(5)), (attempt(2, first_generation=6), rows(5, 6)),
                    (attempt(3, first_generation=9), rows(5, 6, 7)))  # fmt: skip
    assert (before.due, before.through) == ((5, 6), True)


def test_one_that_committed_nothing_before_the_next_began_did_not() -> None:
    before = logged((attempt(1, first_generation=1), rows(5)), (attempt(2, first_generation=7), rows(6)))
    assert before.due == (6, 6)


def test_what_went_on_from_another_checkpoint_does_not_count() -> None:
    other = attempt(2, from_step=STEP, from_generation=5, first_generation=9)
    assert logged((other, rows(5, 6))).due is None
    assert logged((attempt(1), rows(5, 6))).due is None, "of a file without generations"


def test_a_resume_that_took_the_same_course_adds_what_it_logged_beyond() -> None:
    before = logged((THROUGH, rows(5, 6)), (resumed(2), rows(5, 6, 7)), (resumed(3), rows(7, 8)))
    assert (before.due, before.through) == ((5, 8), True)


def test_a_resume_that_took_another_course_is_left_out() -> None:
    other = {5: row(5, loss=9.0), 9: row(9)}
    before = logged((THROUGH, rows(5)), (resumed(2), other), (resumed(3), rows(8)))
    assert before.due == (5, 5)


def test_equal_learning_rates_alone_do_not_join_two_courses() -> None:
    before = logged((THROUGH, {5: {"learning_rate": 0.1}}), (resumed(2), rows(5, 6)))
    assert before.due == (5, 5)


def test_the_newest_of_several_resumes_counts_where_none_trained_through() -> None:
    before = logged((THROUGH, {}), (resumed(2), rows(5)), (resumed(3), {5: row(5, loss=9.0)}))
    assert (before.due, before.through) == ((5, 5), False)
    assert before.rows[5]["loss"] == [9.0]


def test_a_resume_with_other_settings_is_no_measure_for_one_with_the_same() -> None:
    assert logged((THROUGH, {}), (resumed(2, "approximate"), rows(5))).due is None
    assert logged((THROUGH, {}), (resumed(2), rows(5)), (resumed(3, "equivalent"), rows(9))).due == (5, 5)


def test_with_other_settings_the_newest_resume_goes_first() -> None:
    changed = {5: row(5, loss=9.0)}
    before = logged((THROUGH, rows(5, 6)), (resumed(2, "approximate"), changed), exact=False)
    assert (before.due, before.through) == ((5, 5), False)
    assert logged((THROUGH, rows(5, 6)), (resumed(2, "equivalent"), rows(6, 7)), exact=False).due == (5, 7)


def test_the_row_at_the_end_and_what_the_machine_makes_do_not_count() -> None:
    summary = {"train_runtime": 1.0, "train_loss": 0.5, "train_samples_per_second": 3.0}
    assert logged((THROUGH, {8: summary, 9: {"step_time": 0.1}})).due is None
    with_tokens = row(5, train_runtime=1.0, train_tokens_per_second=7.0)
    assert set(logged((THROUGH, {5: with_tokens})).rows[5]) == {"loss", "grad_norm", "learning_rate"}


# -- how they are compared -----------------------------------------------------------------------------------


def test_equal_values_prove_the_course() -> None:
    course, told = observe(logged((THROUGH, rows(5, 6, 7))), rows(5, 6, 7, 8, 9).items())
    assert (course.equal, course.values, course.proved) == ((5, 7), 6, True)
    assert [one.equal for one in told] == [(5, 5), (5, 7)], "once after the first, once when nothing more is there"
    assert str(course) == "steps 5 to 7 came out bit-equal to what the interrupted attempt had logged"
    assert course.line(compared=True) == f"proved: {course}"


def test_an_attempt_that_ends_inside_of_the_overlap_proves_as_far() -> None:
    course, told = observe(logged((THROUGH, rows(5, 6, 7))), rows(5).items())
    assert (course.equal, [one.equal for one in told]) == ((5, 5), [(5, 5)])
    assert str(course) == "step 5 came out bit-equal to what the interrupted attempt had logged"


def test_nothing_to_compare_with() -> None:
    course, told = observe(logged((THROUGH, {})), rows(5, 6).items())
    assert (course, told) == (Course(), [])
    assert course.line(compared=True) == "compared state, nothing logged to compare the course with"
    assert course.line(compared=False) == "course: nothing logged to compare the course with"


def test_before_the_first_value_it_says_what_will_be_compared() -> None:
    text = "course: what the interrupted attempt had logged of steps 5 to 6 is compared with what is logged now"
    assert Observer(logged((THROUGH, rows(5, 6)))).course.line(compared=True) == text


def test_another_loss_is_another_course_at_once() -> None:
    now = {**rows(5), 6: row(6, loss=0.25), **rows(7)}
    course, told = observe(logged((THROUGH, rows(5, 6, 7))), now.items())
    assert (course.left, course.proved, course.equal, course.values) == (True, False, (5, 5), 2)
    assert [one.left for one in told] == [False, True]
    assert str(course) == (
        "from step 6 on another course than that of the interrupted attempt: loss of step 6 was 0.16666666666666666, "
        "now 0.25 (2 values of step 5 came out bit-equal)"
    )


def test_one_bit_is_another_course() -> None:
    value = 1 / 5
    course, _ = observe(logged((THROUGH, rows(5))), {5: row(5, loss=math.nextafter(value, 1))}.items())
    assert course.left


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (math.nan, math.nan, True), (0.0, -0.0, False), (math.inf, math.inf, True), (math.inf, -math.inf, False),
        (3, 3.0, True), (0.1 + 0.2, 0.3, False), (5e-324, 5e-324, True), (math.nan, 0.0, False),
    ],
)  # fmt: skip
def test_the_same_bits(one: float, other: float, same: bool) -> None:
    assert same_bits(one, other) is same


def test_what_differs_beside_the_loss_leaves_the_course() -> None:
    before = logged((THROUGH, rows(5, 6, 7, power=1.0)))
    course, told = observe(before, rows(5, 6, 7, 8, power=2.0).items())
    assert (course.left, course.proved, course.equal) == (False, True, (5, 7))
    assert len(told) == 1, "nothing is said before it is known whether the course is the same"
    assert str(course) == (
        "steps 5 to 7 came out bit-equal to what the interrupted attempt had logged; beside loss and gradients, power "
        "of step 5 was 1.0, now 2.0"
    )


@pytest.mark.parametrize(("later", "left"), [(rows(6), False), ({}, True)])
def test_an_evaluation_that_differs_waits_for_the_loss_behind_it(later: dict[int, Any], left: bool) -> None:
    before = logged((THROUGH, {5: {"eval_loss": 1.0}, **rows(6)}))
    course, _ = observe(before, {5: {"eval_loss": 2.0}, **later}.items())
    assert course.left is left


def test_a_loss_that_differs_later_makes_the_first_difference_one_of_the_course() -> None:
    before = logged((THROUGH, {5: {"eval_loss": 1.0}, **rows(6)}))
    course, _ = observe(before, {5: {"eval_loss": 2.0}, 6: row(6, loss=3.0)}.items())
    assert course.left and course.deviation is not None
    assert (course.deviation.step, course.deviation.name) == (5, "eval_loss")


def test_a_loop_without_a_loss_differs_by_whatever_it_logs() -> None:
    course, _ = observe(logged((THROUGH, {5: {"nll": 1.0}, 6: {"nll": 1.0}})), {5: {"nll": 2.0}}.items())
    assert course.left


def test_equal_learning_rates_are_no_proof_and_another_one_is_a_difference() -> None:
    before = {5: {"learning_rate": 0.1, "num_tokens": 80.0}}
    course, told = observe(logged((THROUGH, before)), before.items())
    assert (course.equal, course.proved, told) == (None, False, [])
    course, _ = observe(logged((THROUGH, before)), {5: {"learning_rate": 0.2}}.items())
    assert course.left


def test_metrics_of_evaluations_count() -> None:
    course, _ = observe(logged((THROUGH, {6: {"eval_loss": 1.5}})), {6: {"eval_loss": 1.5, "eval_new": 1.0}}.items())
    assert (course.equal, course.values, course.proved) == ((6, 6), 1, True)


def test_a_name_that_is_logged_twice_at_a_step_is_compared_in_order() -> None:
    before = Logged(STEP)
    now = [(5, {"loss": 1.0}), (5, {"loss": 2.0})]
    for step, values in now:
        before.add(step, values)
    assert observe(before, now)[0].values == 2
    for step, values in now:
        before.add(step, values)
    assert observe(before, now[::-1])[0].left


def test_at_the_step_of_the_checkpoint_what_came_before_the_save_need_not_come_again() -> None:
    before = Logged(STEP)
    for value in (1.0, 2.0):
        before.add(STEP, {"eval_loss": value})
    course, _ = observe(before, [(STEP, {"eval_loss": 2.0})])
    assert (course.due, course.equal, course.proved) == (None, (STEP, STEP), True)


def test_the_same_as_an_earlier_resume_is_repeated_and_not_proved() -> None:
    course, _ = observe(logged((THROUGH, {}), (resumed(2), rows(5))), rows(5).items())
    assert not course.proved
    assert course.line(compared=True) == (
        "course: step 5 came out bit-equal to what an earlier resume from here had logged, which repeats it and proves "
        "no more"
    )


def test_an_attempt_that_was_finished_was_not_interrupted() -> None:
    course = Observer(logged((attempt(1, first_generation=1, ended="finished"), rows(5)))).course
    assert "what the earlier attempt had logged" in str(course)


# -- the receipt ---------------------------------------------------------------------------------------------


def seen(now: Mapping[int, Mapping[str, float]], before: Mapping[int, Mapping[str, float]] | None = None) -> Course:
    return observe(logged((THROUGH, rows(5, 6) if before is None else before)), now.items())[0]


def test_evidence() -> None:
    receipt = Receipt(4, "run/checkpoint-4")
    assert receipt.evidence is Evidence.INFERRED
    receipt = Receipt(4, "run/checkpoint-4", compared="3 of 3 tensors equal what was saved")
    assert receipt.evidence is Evidence.COMPARED
    assert receipt.observed(seen({})).evidence is Evidence.COMPARED
    proved = receipt.observed(seen(rows(5, 6)))
    assert (proved.evidence, proved.level) == (Evidence.PROVED, Exactness.EXACT)
    assert proved.lines() == [
        "Resumed from step 4 (exact, proved; every byte verified)",
        "compared: 3 of 3 tensors equal what was saved",
        "proved: steps 5 to 6 came out bit-equal to what the interrupted attempt had logged",
    ]


CORRECTED = (
    "approximate: from step 5 on another course than that of the interrupted attempt: loss of step 5 was 0.2, now 0.5; "
    "likely: a generator of yours or the moon"
)


def test_another_course_corrects_what_said_exact() -> None:
    receipt = Receipt(4, "x").observed(seen({5: row(5, loss=0.5)}), ["a generator of yours", "the moon"])
    assert (receipt.level, receipt.evidence) == (Exactness.APPROXIMATE, Evidence.INFERRED)
    assert receipt.lines() == [
        "Resumed from step 4 (approximate, inferred; every byte verified)",
        CORRECTED,
    ]


def test_a_value_beside_the_course_makes_it_equivalent() -> None:
    receipt = Receipt(4, "x").observed(seen(rows(5, 6, power=1.0), rows(5, 6, power=2.0)))
    assert (receipt.level, receipt.evidence) == (Exactness.EQUIVALENT, Evidence.PROVED)
    assert receipt.reasons[-1].text == "power of step 5 was 2.0, now 1.0, while loss and gradients are the same"


@pytest.mark.parametrize("level", [Exactness.EQUIVALENT, Exactness.APPROXIMATE])
def test_where_it_was_to_be_expected_the_receipt_stays(level: Exactness) -> None:
    before = Receipt(4, "x", (Reason(level, "torch was 2.8, now 2.9"),))
    after = before.observed(seen({5: row(5, loss=0.5)}))
    assert (after.level, after.reasons) == (level, before.reasons)
    assert after.lines()[-1].startswith("course: from step 5 on another course")
    assert before.observed(seen(rows(5, 6))).evidence is Evidence.PROVED


def test_json_is_the_receipt() -> None:
    nan = seen({5: row(5, loss=math.nan)})
    for receipt in (
        Receipt(4, "x", compared="all"),
        Receipt(4, "x").observed(seen(rows(5))),
        Receipt(4, "x", course=nan),
    ):
        plain = json.loads(json.dumps(receipt.to_json(), allow_nan=False))
        assert lines_of(plain) == receipt.lines()
        assert plain["evidence"] == receipt.evidence
    assert Receipt(4, "x", course=nan).to_json()["course"]["deviation"]["now"] == "NaN"


def test_a_receipt_of_an_older_version_is_read() -> None:
    plain = {"step": 4, "level": "exact", "verified": True, "reasons": [], "passed_over": ["checkpoint-6: damaged"]}
    assert lines_of(plain) == [
        "Resumed from step 4 (exact, inferred; every byte verified)", "passed over: checkpoint-6: damaged",
    ]  # fmt: skip
