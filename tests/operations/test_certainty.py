"""How sure a run's best is: from its log, from its commits, on its present course alone."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.operations.checking import best_that_holds
from keepstep.operations.seeing.certainty import certainty_of_best, evaluations
from keepstep.operations.seeing.showing import show
from keepstep.retention import Metric
from keepstep.run import History, Run
from tests.operations.runs import LOSS, flip, make_run

VALUES = {100: 0.9, 200: 0.52, 300: 0.503, 400: 0.5, 500: 0.512, 600: 0.52, 700: 0.53, 800: 0.54, 900: 0.545}
"""A loss that falls, stays, and rises again, with noise of a hundredth."""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", VALUES, keep="best:3:full,latest:1")


def test_commits_tell_of_what_was_removed_too(run: Run) -> None:
    assert [c.step for c in run.checkpoints] == [300, 400, 500, 900]
    assert evaluations(run, LOSS) == list(VALUES.values())
    sure = certainty_of_best(run)
    assert sure is not None
    assert (sure.step, sure.evaluations) == (400, 9)
    assert sure.ties == (300,)


def test_a_log_tells_of_more_than_was_saved_and_of_one_course(run: Run) -> None:
    history = History(run.store)
    history.begin(max_steps=1000)
    for step in range(50, 1000, 50):
        history.log(step, None, {"eval_loss": 1.0 + step, "loss": 7.0})
    history.begin(from_step=500)
    for step in range(550, 700, 50):
        history.log(step, None, {"eval_loss": 2.0})
    assert evaluations(run, LOSS) == [*(1.0 + step for step in range(50, 501, 50)), 2.0, 2.0, 2.0]
    assert evaluations(run, Metric("loss", "min"))[0] == 7.0


def test_what_the_training_logs_is_no_evaluation(tmp_path: Path) -> None:
    """eval_loss ranks, and only the training's own loss was logged."""
    run = make_run(tmp_path / "run", {1: 0.5})
    history = History(run.store)
    history.begin()
    for step in range(1, 20):
        history.log(step, None, {"loss": float(step)})
    assert evaluations(run, LOSS) == [0.5]
    assert certainty_of_best(run) is None


def test_a_rewind_drops_the_course_that_was_left(run: Run) -> None:
    with run.writing():
        run.rewind(run.find(400))
    assert evaluations(run, LOSS) == [0.9, 0.52, 0.503, 0.5]
    assert certainty_of_best(Run.open(run.path)) is None


def test_late_values_count_and_odd_ones_do_no_harm(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", dict.fromkeys(range(1, 10)))
    for checkpoint in run.checkpoints:
        run.record_metrics(checkpoint.generation, {"eval_loss": checkpoint.step / 10})
    run.events.append("metrics", generation=1, metrics={"eval_loss": "much"})
    run.events.append("metrics", generation=2, metrics=7)
    assert evaluations(run, LOSS) == [step / 10 for step in range(1, 10)]


def test_what_is_taken_in_place_of_a_damaged_best_is_judged_from_there(run: Run) -> None:
    flip(run.path / "checkpoint-400" / "model.safetensors")
    point = best_that_holds(run)
    sure = certainty_of_best(run, point.checkpoint)
    assert sure is not None
    assert (sure.step, 400 in sure.ties) == (300, False)


def test_show_has_it_for_the_best_and_its_ties(run: Run) -> None:
    best, tie, other = (show(run, step) for step in (400, 300, 900))
    assert best.sure().startswith("checkpoint-400 leads by 0.003; ")
    assert tie.sure().startswith("a tie with the best: checkpoint-400 leads by")
    assert (other.sure(), other.to_json()["certainty"]) == ("", None)
    assert json.loads(json.dumps(best.to_json()["certainty"]))["step"] == 400
