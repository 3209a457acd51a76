"""Tests of pruning that was agreed to: exactly what was shown, or nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointCorrupt, KeepstepError, PolicyError, RunLocked
from keepstep.model import State
from keepstep.operations.removing.pruning import PlanChanged, plan_for, policy_for, prune_as_shown
from keepstep.retention import Metric, Policy, format_spec
from keepstep.run import Limits, Run
from tests.operations.runs import SIZE, flip, make_run, training, write

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


@pytest.fixture
def rewound(run: Run) -> Run:
    """Step 2 and 3 are set aside, and there is a 4; 1 is in quarantine too."""
    with run.writing():
        run.rewind(run.find(1))
    make_run(run.path, {4: 0.4})
    with run.writing():
        run.quarantine(run.verify(run.find(1)))
    return Run.open(run.path)


def _aside(run: Run) -> list[tuple[int, str]]:
    return [(c.step, c.state.value) for c in run.aside]


def test_what_lies_aside_stays_without_being_asked_for(rewound: Run) -> None:
    policy = rewound.policy
    assert not plan_for(rewound, policy).changes


@pytest.mark.parametrize(
    ("drop", "left"),
    [
        ([State.SET_ASIDE], [(1, "quarantined")]),
        ([State.QUARANTINED], [(2, "set aside"), (3, "set aside")]),
        (State, []),
    ],
)
def test_what_lies_aside_goes_when_asked_for(rewound: Run, drop: list[State], left: list[tuple[int, str]]) -> None:
    plan = plan_for(rewound, rewound.policy, drop=drop)

    done = prune_as_shown(rewound, rewound.policy, plan, drop=drop)

    assert _aside(rewound) == left
    assert _steps(rewound) == [4]
    assert done.freed_bytes == (3 - len(left)) * SIZE == sum(c.size_bytes for c in done.removed_aside)
    told = [event for event in rewound.events.read() if event["event"] == "removed"]
    assert {(e["reason"], e["state"]) for e in told} == {
        (f"asked for: {c.state.value}", c.state.value) for c in plan.remove_aside
    }
    assert rewound.next_generation() == 5, "numbers are not given twice"
    assert rewound.repository.current_timeline() == 2


def test_what_is_pinned_stays_aside(rewound: Run) -> None:
    rewound.pin_board.pin(3)
    prune_as_shown(rewound, rewound.policy, plan_for(rewound, rewound.policy, drop=State), drop=State)
    assert _aside(rewound) == [(3, "set aside")]


def test_a_pin_in_between_is_a_change(rewound: Run) -> None:
    shown = plan_for(rewound, rewound.policy, drop=State)
    rewound.pin_board.pin(3)
    with pytest.raises(PlanChanged):
        prune_as_shown(rewound, rewound.policy, shown, drop=State)
    assert len(_aside(rewound)) == 3


def test_a_kill_in_the_middle_leaves_a_rest_that_the_next_start_clears(rewound: Run) -> None:
    with rewound.writing():
        rewound.remove(rewound.aside[-1], "asked for", dispose=lambda key: None)
    assert len(_aside(rewound)) == 2
    assert list((rewound.path / ".keepstep" / "trash").iterdir())
    with rewound.writing():
        assert not list((rewound.path / ".keepstep" / "trash").iterdir())


def _record(run: Run, budget: int) -> None:
    with run.writing():
        run.set_policy(run.policy, Limits(budget, 7, "continue"))


def test_the_runs_own_budget_is_kept_within(rewound: Run) -> None:
    _record(rewound, 2 * SIZE)
    run = Run.open(rewound.path)

    plan = plan_for(run, run.policy)

    assert plan.taken_bytes == 4 * SIZE
    assert [c.step for c in plan.remove_aside] == [2, 3]
    assert plan == replace(run.plan(), decisions=plan.decisions)
    assert plan.aside[0].reasons == ("over the budget of 2.0 kB: the oldest that a rewind set aside",)
    assert not plan_for(run, run.policy, 4 * SIZE).changes, "another budget takes its place"
    assert not run.plan(run.policy).changes, "a policy of one's own is applied alone"
    prune_as_shown(run, run.policy, plan)
    assert (_steps(run), _aside(run)) == ([4], [(1, "quarantined")])


def test_limits_outlive_a_change_of_policy_and_old_files_have_none(run: Run) -> None:
    assert run.limits == Limits()
    _record(run, 5 * SIZE)
    with run.writing():
        run.set_policy(LATEST)
    again = Run.open(run.path)
    assert (again.limits, again.policy) == (Limits(5 * SIZE, 7, "continue"), LATEST)

    file = run.path / ".keepstep" / "run.json"
    fields = json.loads(file.read_text())
    file.write_text(json.dumps({name: fields[name] for name in ("format", "run_id", "created", "keep")}))
    assert Run.open(run.path).limits == Limits()


@pytest.mark.parametrize("wrong", [{"budget": 0}, {"budget": "2GB"}, {"min_free": -1}, {"on_disk_full": "explode"}])
def test_limits_edited_into_nonsense_are_named(run: Run, wrong: dict[str, object]) -> None:
    file = run.path / ".keepstep" / "run.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **wrong}))
    with pytest.raises(KeepstepError, match=r"run\.json is damaged"):
        Run.open(run.path)


def test_previous_runs_are_removed_when_they_are_asked_for(run: Run) -> None:
    with training(run.path) as checkpointer:
        checkpointer.close()
        checkpointer.begin(None)
        checkpointer.save(Facts(1), write)
    new = Run.open(run.path)
    drop = frozenset({State.PREVIOUS})
    shown = plan_for(new, new.policy, drop=drop)
    assert (len(shown.remove_aside), shown.freed_bytes) == (3, 3 * SIZE)
    assert not plan_for(new, new.policy).changes
    Run.open(new.path / ".keepstep" / "previous" / run.id).pin_board.pin(2)
    with pytest.raises(PlanChanged):
        prune_as_shown(new, new.policy, shown, drop=drop)

    done = prune_as_shown(new, new.policy, plan_for(new, new.policy, drop=drop), drop=drop)

    assert [c.step for c in done.removed_aside] == [1, 3]
    assert [c.step for c in new.previous] == [2]
    assert _steps(new) == [1]
    assert {e["reason"] for e in new.events.read() if e["event"] == "removed"} == {
        f"asked for: of a previous run, {run.id}"
    }
