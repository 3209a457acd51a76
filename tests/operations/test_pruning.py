"""Tests of pruning that was agreed to: exactly what was shown, or nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from holdfast.errors import CheckpointCorrupt, PolicyError, RunLocked
from holdfast.operations.pruning import PlanChanged, policy_for, prune_as_shown
from holdfast.retention import Metric, Policy, format_spec
from holdfast.run import Run
from tests.operations.runs import SIZE, flip, make_run, training

LATEST = Policy.from_spec("latest:1")


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def _steps(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints]


def test_removes_what_was_shown(run: Run) -> None:
    removed: list[int] = []

    done = prune_as_shown(run, LATEST, run.plan(LATEST), on_done=lambda c: removed.append(c.step))

    assert _steps(run) == [3]
    assert removed == [1, 2]
    assert done.freed_bytes == 2 * SIZE
    assert [e["reason"] for e in run.events.read() if e["event"] == "removed"] == ["not the newest"] * 2


def test_refuses_when_the_run_changed_in_between(run: Run) -> None:
    shown = run.plan(LATEST)
    make_run(run.path, {4: 0.4})

    with pytest.raises(PlanChanged):
        prune_as_shown(run, LATEST, shown)

    assert _steps(run) == [1, 2, 3, 4]


def test_refuses_when_somebody_pinned_in_between(run: Run) -> None:
    shown = run.plan(LATEST)
    run.pin_board.pin(1)

    with pytest.raises(PlanChanged):
        prune_as_shown(run, LATEST, shown)

    assert _steps(run) == [1, 2, 3]


def test_removes_nothing_when_what_is_left_does_not_hold(run: Run) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")

    with pytest.raises(CheckpointCorrupt, match="Nothing was removed"):
        prune_as_shown(run, LATEST, run.plan(LATEST))

    assert _steps(run) == [1, 2, 3]
    assert run.events.damaged() == {3}


def test_a_known_damage_leaves_a_sound_one(run: Run) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")
    run.note_verified(run.verify(run.find(3)))

    prune_as_shown(run, LATEST, run.plan(LATEST))

    assert _steps(run) == [2, 3]


def test_the_lock_is_respected(run: Run) -> None:
    shown = run.plan(LATEST)
    with training(run.path), pytest.raises(RunLocked):
        prune_as_shown(run, LATEST, shown)


def test_policy_falls_back_to_the_runs_own_piece_by_piece(run: Run) -> None:
    own = run.policy
    assert policy_for(run, None, None, None) == own
    best = policy_for(run, "best:2", None, None)
    assert (format_spec(best.rules), best.metric) == ("best:2", own.metric)
    assert policy_for(run, "best:2", "loss", None).metric == Metric("loss", "min")
    assert policy_for(run, None, "eval_loss", "max").rules == own.rules
    with pytest.raises(PolicyError):
        policy_for(run, None, "oddity", None)
    with pytest.raises(PolicyError, match=r"no checkpoint of .* has a value of accuracy"):
        policy_for(run, "best:2", "accuracy", None)
