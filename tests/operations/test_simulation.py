"""Tests of replayed retention: what it says is what a real run does, and the textbook question has its answer."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from keepstep.errors import SettingsError
from keepstep.operations.simulation.curves import make_curve, read_curve
from keepstep.operations.simulation.outcome import outcome
from keepstep.operations.simulation.replay import Occasion, replay
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Metric, Policy, default_policy
from tests.operations.runs import LOSS, make_run


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    st.sampled_from(["best:2,latest:1", "latest:2", "best:1,every:30", "all"]),
    st.lists(st.sampled_from([0.1, 0.2, 0.3, math.nan, None]), min_size=1, max_size=8),
)
def test_a_real_run_keeps_the_same_steps_for_the_same_reasons(keep: str, losses: list[float | None]) -> None:
    steps = {10 * number: loss for number, loss in enumerate(losses, start=1)}
    schedule = Schedule(10 * len(losses), 10, 10)
    replayed = replay(
        Policy.from_spec(keep, LOSS), schedule, {step: loss for step, loss in steps.items() if loss is not None}
    )
    with tempfile.TemporaryDirectory() as home:
        run = make_run(Path(home) / "run", steps, keep)
        assert [c.step for c in replayed.on_disk] == [c.step for c in run.checkpoints]
        removed = {event["step"]: event["reason"] for event in run.events.read() if event["event"] == "removed"}
    assert {c.step: reason for moment in replayed.moments for c, reason in moment.removed} == removed


def test_the_textbook_question() -> None:
    schedule = Schedule(10_000, 500, 500)
    curve = make_curve("u-shape", schedule.evaluations, 10_000, 0)
    end = outcome(replay(default_policy(3, LOSS), schedule, curve.values, until=3000))
    assert [checkpoint.step for checkpoint in end.on_disk] == [1500, 2000, 2500, 3000]
    assert end.resume is not None and end.resume.step == 3000
    assert end.deploy is not None and end.deploy.step == 2000
    assert end.before is not None and end.before.step == 2500
    assert end.lost_steps == 0
    assert any("They differ" in text for text in end.why)


def test_a_thinned_best_is_deployed_and_nothing_to_resume_from() -> None:
    values = {100: 1.0, 200: 2.0, 300: 3.0}
    replayed = replay(Policy.from_spec("best:1,latest:1", LOSS), Schedule(300, 100, 100), values, size=90, weights=30)
    end = outcome(replayed)
    assert [(c.name, c.size_bytes) for c in end.on_disk] == [("weights-100", 30), ("checkpoint-300", 90)]
    assert [c.step for moment in replayed.moments for c, _ in moment.thinned] == [100]
    assert end.deploy is not None and end.deploy.step == 100
    assert "100 has its weights alone, nothing to resume from" in end.why[-1]


def test_when_the_newest_is_the_best_that_is_said() -> None:
    schedule = Schedule(300, 100, 100)
    end = outcome(replay(default_policy(2, LOSS), schedule, {100: 3.0, 200: 2.0, 300: 1.0}, until=250))
    assert end.resume is not None and end.resume.step == 200 and end.lost_steps == 50
    assert end.deploy == end.resume
    assert "Both are the same" in end.why[-1]


def test_without_evaluation_nothing_is_deployed() -> None:
    end = outcome(replay(default_policy(2, None), Schedule(300, 100), {}))
    assert [c.step for c in end.on_disk] == [200, 300]
    assert end.deploy is None and "cannot" not in end.why[-1] and "can't be called" not in end.why[0]


def test_before_the_first_save_there_is_nothing() -> None:
    end = outcome(replay(default_policy(2, LOSS), Schedule(300, 100, 100), {}, until=99))
    assert (end.resume, end.deploy, end.on_disk, end.lost_steps) == (None, None, (), 99)


def test_a_new_best_between_two_saves_is_saved() -> None:
    replayed = replay(default_policy(1, LOSS), Schedule(40, 20, 10), {10: 2.0, 20: 3.0, 30: 1.0, 40: 1.5})
    saved = [(moment.checkpoint.step, moment.occasion) for moment in replayed.moments]
    assert saved == [(10, Occasion.NEW_BEST), (20, Occasion.SCHEDULE), (30, Occasion.NEW_BEST), (40, Occasion.SCHEDULE)]
    assert [c.step for c in replayed.on_disk] == [30, 40]


def test_the_last_step_is_saved_and_evaluated() -> None:
    schedule = Schedule(25, 10, 10)
    assert schedule.saves == (10, 20, 25) == schedule.evaluations


def test_higher_can_be_better() -> None:
    policy = default_policy(1, Metric("eval_accuracy", "max"))
    replayed = replay(policy, Schedule(30, 10, 10), {10: 0.9, 20: 0.5, 30: 0.7})
    assert [c.step for c in replayed.on_disk] == [10, 30]


def test_hours_pass_with_the_time_of_a_step() -> None:
    policy = Policy.from_spec("hourly:3")
    replayed = replay(policy, Schedule(100, 10), {}, seconds_per_step=120)
    assert len(replayed.on_disk) == 3
    assert len(replay(policy, Schedule(100, 10), {}, seconds_per_step=1).on_disk) == 1


def test_centuries_are_refused() -> None:
    with pytest.raises(SettingsError, match="thousands of years"):
        replay(Policy.from_spec("latest:1"), Schedule(1000, 10), {}, seconds_per_step=1e12)


# -- curves ----------------------------------------------------------------------------------------------


def test_noise_is_the_same_for_the_same_seed() -> None:
    first, again, other = (make_curve("noisy", range(0, 1000, 10), 1000, seed) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize(
    ("text", "name", "values"),
    [
        ("step,eval_loss\n10,0.5\n20,0.4\n", "eval_loss", {10: 0.5, 20: 0.4}),
        ("Wall time,Step,Value\n1.5,10,0.5\n", "eval_loss", {10: 0.5}),
        ("\ufeffstep, wer\r\n10.0,nan\r\n20,\r\n", "wer", {10: math.nan}),
        ("epoch,step,loss,lr\n1,10,0.5,1e-4\n", "loss", {10: 0.5}),
    ],
)
def test_files_are_read(tmp_path: Path, text: str, name: str, values: dict[int, float]) -> None:
    (tmp_path / "curve.csv").write_text(text, encoding="utf-8")
    curve = read_curve(tmp_path / "curve.csv")
    assert curve.name == name
    assert list(curve.values) == list(values)
    assert [str(value) for value in curve.values.values()] == [str(value) for value in values.values()]


@pytest.mark.parametrize(
    ("data", "part"),
    [
        (b"", "is empty"),
        (b"10,0.5\n", "no column 'step'"),
        (b"step\n10\n", "no column 'step' and one"),
        (b"step,loss\n", "no value of loss"),
        (b"step,loss\nten,0.5\n", "line 2"),
        (b"step,loss\n1.5,0.5\n", "is no step"),
        (b"step,loss\n-1,0.5\n", "is no step"),
        (b"step,loss\ninf,0.5\n", "is no step"),
        (b"step,loss\n1e300,0.5\n", "is no step"),
        (b"step,loss\n10,low\n", "line 2"),
        (b"\xff\xfe\x00", "no text in UTF-8"),
        (b'step,loss\n"' + b"a" * 200_000 + b'",1\n', "can't be read"),
    ],
)
def test_files_that_are_no_curve_are_refused(tmp_path: Path, data: bytes, part: str) -> None:
    (tmp_path / "curve.csv").write_bytes(data)
    with pytest.raises(SettingsError, match=part):
        read_curve(tmp_path / "curve.csv")


def test_a_missing_file_names_the_shapes() -> None:
    with pytest.raises(SettingsError, match="neither a file nor a shape") as caught:
        make_curve("nowhere.csv", [10], 10, 0)
    assert "u-shape" in caught.value.hint
