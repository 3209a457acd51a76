"""Curves show the course of the run, what was left behind, and every extreme, whatever few points they are given."""

from __future__ import annotations

import json
import math
import random
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keepstep.checkpointer import Facts
from keepstep.operations.seeing.curves import BEFORE, CurveReader, Curves, Strand, curves
from keepstep.operations.seeing.series import BLOCK, Series
from keepstep.run import History, Run
from tests.operations.runs import make_run, training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {})


def log(run: Run, steps: range, *, ended: bool = True, from_step: int | None = None, **also: float) -> None:
    """One attempt that logs a loss, a hundredth of the step, at each of `steps`."""
    history = History(run.store)
    history.begin(from_step=from_step, max_steps=1000)
    for step in steps:
        history.log(step, step / 10, {"loss": step / 100, **also})
    if ended:
        history.end("finished")


def shapes(found: Curves, name: str = "loss") -> list[tuple[int, bool, tuple[int, ...]]]:
    return [(strand.attempt, strand.live, strand.steps) for strand in found.strands[name]]


def test_one_attempt(run: Run) -> None:
    log(run, range(1, 4), eval_loss=2.0)
    found = curves(run)
    assert found.names == ("loss", "eval_loss")
    assert (found.first_step, found.last_step, found.max_steps) == (1, 3, 1000)
    assert found.strands["loss"] == (Strand(1, 0, True, (1, 2, 3), (0.01, 0.02, 0.03), 3),)
    assert curves(run, names=["eval_loss", "unknown"]).strands == {
        "eval_loss": (Strand(1, 0, True, (1, 2, 3), (2.0, 2.0, 2.0), 3),),
        "unknown": (),
    }


def test_what_a_later_attempt_left_behind_is_not_live(run: Run) -> None:
    log(run, range(1, 9), ended=False)
    log(run, range(7, 10), from_step=6, ended=False)
    log(run, range(4, 6), from_step=3)
    assert shapes(curves(run)) == [
        (1, True, (1, 2, 3)),
        (1, False, (4, 5, 6, 7, 8)),
        (2, False, (7, 8, 9)),
        (3, True, (4, 5)),
    ]
    assert shapes(curves(run, start=3, stop=4)) == [(1, True, (3,)), (1, False, (4,)), (3, True, (4,))]
    assert [(span.attempt.number, span.last_step) for span in curves(run).spans] == [(1, 8), (2, 9), (3, 5)]


def test_a_fresh_start_leaves_everything_behind(run: Run) -> None:
    log(run, range(3), ended=False)
    log(run, range(2), ended=False)
    assert shapes(curves(run)) == [(1, False, (0, 1, 2)), (2, True, (0, 1))]


def test_an_empty_run_has_no_curves(run: Run) -> None:
    found = curves(run)
    assert found == Curves((), {}, (), None, None, None)
    assert found.to_json()["curves"] == {}


def test_steps_out_of_order_are_put_in_order(run: Run) -> None:
    history = History(run.store)
    history.begin()
    for step in (*range(200, 400), 5, *range(100, 200)):
        history.log(step, None, {"loss": step})
    reader = CurveReader(run)
    reader.curves(points=20)
    assert shapes(reader.curves(points=400)) == [(1, True, (5, *range(100, 400)))]
    history.log(7, None, {"loss": 9999.0})
    assert 9999.0 in reader.curves(points=20).strands["loss"][0].values


def test_json_is_strict(run: Run) -> None:
    history = History(run.store)
    history.begin(from_step=3, from_generation=2, timeline=1)
    for step, value in enumerate((math.nan, 0.5, -math.inf, math.inf), start=5):
        history.log(step, None, {"loss": value})
    plain = json.loads(json.dumps(curves(run).to_json(), allow_nan=False))
    strand = {"attempt": 1, "timeline": 1, "live": True, "steps": [5, 6, 7, 8], "values": [None, 0.5, None, None]}
    strand |= {"odd": ["NaN", "-Infinity", "Infinity"], "total": 4}
    assert plain["curves"] == {"loss": [strand]}
    (attempt,) = plain["attempts"]
    assert attempt.pop("started").endswith("+00:00")
    assert attempt == {
        "number": 1, "from_step": 3, "from_generation": 2, "timeline": 1, "ended": None, "last_step": 8,
    }  # fmt: skip


# -- few points --------------------------------------------------------------------------------------------


@given(
    seed=st.integers(0, 2**32),
    length=st.integers(0, 20 * BLOCK),
    points=st.integers(8, 900),
    odd=st.sampled_from([0.0, 0.01, 1.0]),
    window=st.tuples(st.floats(0, 1), st.floats(0, 1)),
)
def test_few_points_keep_ends_and_extremes(
    seed: int, length: int, points: int, odd: float, window: tuple[float, float]
) -> None:
    chance = random.Random(seed)
    series, values = Series(), list[float]()
    for step in range(length):
        values.append(chance.choice((math.nan, math.inf)) if chance.random() < odd else chance.gauss(0, 1))
        series.add(step, values[-1])
    begin, end = sorted(round(part * length) for part in window)

    picked = series.pick(begin, end, points)

    assert picked == sorted(set(picked))
    assert len(picked) <= points
    if end - begin <= points:
        assert picked == list(range(begin, end))
        return
    assert (picked[0], picked[-1]) == (begin, end - 1)
    finite = [value for value in values[begin:end] if math.isfinite(value)]
    shown = [values[place] for place in picked if math.isfinite(values[place])]
    if finite:
        assert (min(shown), max(shown)) == (min(finite), max(finite))
    assert (len(finite) < end - begin) == any(not math.isfinite(values[place]) for place in picked)


@pytest.mark.parametrize("points", [1, 2, 7])
def test_hardly_any_points(points: int) -> None:
    series = Series()
    for step in range(100):
        series.add(step, 0.0)
    assert series.pick(0, 100, points) == ([99] if points == 1 else [0, 99])


def test_what_is_added_leaves_the_other_points_where_they_are(run: Run) -> None:
    chance = random.Random(1)
    history, reader = History(run.store), CurveReader(run)
    history.begin()
    drawn: list[set[int]] = []
    for step in range(6000):
        history.log(step, None, {"loss": chance.random()})
        if step >= 5990:
            drawn.append(set(reader.curves(points=100).strands["loss"][0].steps))
    assert all(len(one - other) <= 4 for one, other in pairwise(drawn))
    assert drawn[-1] == set(curves(run, points=100).strands["loss"][0].steps)


def test_a_second_look_reads_what_was_added(run: Run) -> None:
    log(run, range(3), ended=False)
    reader = CurveReader(run)
    assert shapes(reader.curves()) == [(1, True, (0, 1, 2))]
    log(run, range(2, 5), from_step=1)
    assert shapes(reader.curves()) == [(1, True, (0, 1)), (1, False, (2,)), (2, True, (2, 3, 4))]
    run.store.delete(".keepstep/metrics.jsonl")
    assert reader.curves().names == ()


# -- without a history -------------------------------------------------------------------------------------

STATE = {
    "max_steps": 50,
    "log_history": [
        {"loss": 1.0, "epoch": 0.1, "step": 1},
        {"loss": 0.5, "epoch": 0.2, "step": 2},
        {"eval_loss": 0.75, "eval_done": True, "eval_name": "x", "epoch": 0.2, "step": 2},
        {"loss": 10**400, "step": 3},
        {"loss": 1.0, "step": "4"},
    ],
}


def save_with_log(path: Path, state: object) -> Run:
    with training(path) as checkpointer:

        def write(directory: Path) -> None:
            (directory / "trainer_state.json").write_text(json.dumps(state))

        checkpointer.save(Facts(3), write)
    return Run.open(path)


def test_a_run_without_a_history_has_its_checkpoint_s_log(tmp_path: Path) -> None:
    found = curves(save_with_log(tmp_path / "run", STATE))
    assert found.names == ("loss", "eval_loss")
    assert found.strands["loss"] == (Strand(BEFORE, 1, True, (1, 2, 3), (1.0, 0.5, math.inf), 3),)
    assert (found.first_step, found.last_step, found.max_steps) == (1, 3, 50)
    assert [span.attempt.number for span in found.spans] == [BEFORE]


def test_a_history_that_begins_later_is_completed(tmp_path: Path) -> None:
    run = save_with_log(tmp_path / "run", STATE)
    reader = CurveReader(run)
    assert len(reader.curves().spans) == 1
    log(run, range(3, 5), from_step=2)
    assert shapes(reader.curves()) == [(BEFORE, True, (1, 2)), (1, True, (3, 4))]
    log(run, range(1, 3))
    assert shapes(reader.curves()) == [(BEFORE, False, (1, 2)), (1, False, (3, 4)), (2, True, (1, 2))]


@pytest.mark.parametrize("state", [[], {"log_history": 3}, {"log_history": [3]}, {"log_history": []}, "x"])
def test_a_log_of_another_shape_is_none(tmp_path: Path, state: object) -> None:
    assert curves(save_with_log(tmp_path / "run", state)).names == ()
