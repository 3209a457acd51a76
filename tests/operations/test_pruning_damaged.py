"""Tests of pruning a run of which something is damaged: no good one goes in its favour."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.model import Damage, Kind
from keepstep.operations.checking import best_that_holds, candidates, check
from keepstep.operations.removing.pruning import plan_for, prune_as_shown
from keepstep.operations.removing.thinning import ThinRefused, thin
from keepstep.operations.seeing.showing import show
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, flip, make_run, training, write

BEST = Policy.from_spec("best:1,latest:1", LOSS)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Step 1 is the best, 2 the next best."""
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})


def _prune(run: Run, policy: Policy = BEST) -> list[int]:
    prune_as_shown(run, policy, plan_for(run, policy))
    return [checkpoint.step for checkpoint in run.checkpoints]


def _flip(run: Run, file: str = "model.safetensors", step: int = 1) -> None:
    flip(run.path / f"checkpoint-{step}" / file)


def _cut(run: Run) -> None:
    path = run.path / "checkpoint-1" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:500])


def test_a_check_that_failed_saves_the_next_best(run: Run) -> None:
    _flip(run)
    check(run, candidates(run, 1))
    assert _prune(run) == [1, 2, 4]
    assert [c.step for c in Run.open(run.path).ranking()] == [2, 4]


def test_looking_for_the_best_is_a_check(run: Run) -> None:
    _flip(run)
    assert best_that_holds(run).checkpoint.step == 2
    assert _prune(run) == [1, 2, 4]
    again = best_that_holds(run)
    assert (again.checkpoint.step, len(again.passed_over)) == (2, 1), "it is said each time"


@pytest.mark.parametrize("tear", [_cut, lambda run: (run.path / "checkpoint-1" / "model.safetensors").unlink()])
def test_what_nobody_checked_is_looked_at_by_size(run: Run, tear: Callable[[Run], None]) -> None:
    tear(run)
    assert [c.step for c in plan_for(run, BEST).remove] == [3]
    assert run.events.damage() == {}, "what only looks writes nothing"
    assert _prune(run) == [1, 2, 4]
    assert run.events.damage() == {1: Damage.WEIGHTS}


def test_a_budget_gives_up_what_is_torn_and_keeps_the_next_best(run: Run) -> None:
    _cut(run)
    plan = plan_for(run, run.policy, 2000)
    assert [c.step for c in plan.remove] == [1, 3]


def test_one_that_is_whole_again_takes_its_place_again(run: Run) -> None:
    _flip(run)
    best_that_holds(run)
    _flip(run)
    assert best_that_holds(run).checkpoint.step == 1
    assert _prune(run) == [1, 4]


def test_a_training_looks_before_it_removes(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    with training(run.path, "all"):
        pass
    _cut(run)
    with training(run.path, "best:1,latest:1") as checkpointer:
        checkpointer.save(Facts(5, metrics={"eval_loss": 0.5}), write)
    assert [c.step for c in Run.open(run.path).checkpoints] == [1, 2, 5]
    assert (
        "Damaged is checkpoint-1 (generation 1): model.safetensors has 500 bytes instead of 900. It stays"
        in caplog.text
    )
    assert run.events.damage() == {1: Damage.WEIGHTS}


def test_an_optimizer_that_is_damaged_leaves_the_best_the_best(run: Run) -> None:
    _flip(run, "optimizer.pt")
    check(run, candidates(run, 1))
    assert run.events.damage() == {1: Damage.RESUME}
    assert _prune(run) == [1, 4]
    assert [c.kind for c in run.checkpoints] == [Kind.FULL] * 2


def test_nothing_but_a_person_thins_or_removes_it(run: Run) -> None:
    _flip(run, step=3)
    check(run, candidates(run, 3))
    with pytest.raises(ThinRefused, match="is damaged"):
        thin(run, 3)
    assert _prune(run, Policy.from_spec("latest:1")) == [3, 4]
    assert "keepstep verify" in show(run, 3).removed_by[-1]
    assert [c.step for c in plan_for(run, run.policy, 1000).remove] == [3]
