"""Values that come after the saves: from an evaluation that lags behind, or from another process."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from keepstep.checkpointer import Checkpointer
from keepstep.operations.removing.pruning import plan_for
from keepstep.operations.seeing.chronicle import Chronicle
from keepstep.operations.seeing.past import replay_past
from keepstep.operations.seeing.showing import show
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.run import view as run_view
from tests.small_run import LOSS, make_checkpointer, save, steps

POLICY = "best:1,latest:1"


def record_elsewhere(path: Path, step: int, loss: float) -> None:
    """What an evaluator in another process does: it knows the directory alone."""
    run = Run.open(path)
    run.record_metrics(run.find(step).generation, {"eval_loss": loss})


def train(path: Path, *, saved: int, lag: int, keep: str = POLICY) -> Checkpointer:
    """Save steps from 1 on; the value of each comes `lag` saves later."""
    checkpointer = make_checkpointer(path, keep)
    checkpointer.begin("auto")
    for step in range(1, saved + 1):
        save(checkpointer, step)
        if step > lag and any(c.step == step - lag for c in checkpointer.run.checkpoints):
            record_elsewhere(path, step - lag, 1 / step)
    checkpointer.close()
    return checkpointer


def test_a_policy_that_names_a_time_loses_none_before_its_value_came(tmp_path: Path) -> None:
    run = train(tmp_path, saved=8, lag=3, keep=f"{POLICY},pending:1h").run
    with run.writing():
        pass
    assert {e["generation"] for e in run.events.read() if e["event"] == "metrics"} == {1, 2, 3, 4, 5}
    assert steps(run)[-3:] == [6, 7, 8]


def test_once_values_come_late_the_others_are_waited_for(tmp_path: Path) -> None:
    """With no word in the policy: the run itself shows that its values come after its saves."""
    run = train(tmp_path, saved=8, lag=1, keep="best:2,latest:1").run
    assert run.evaluated_later(LOSS)
    save_more = make_checkpointer(tmp_path, POLICY)
    save_more.begin("auto")
    for step in (9, 10, 11):
        save(save_more, step)
    save_more.close()
    assert steps(run) == [7, 8, 9, 10, 11]
    assert show(run, 9).row.reasons == ("eval_loss may still come, within 6h of the save",)
    assert "a value of eval_loss that is not enough" in show(run, 9).removed_by[0]


def test_a_run_that_is_evaluated_with_its_saves_waits_for_nothing(tmp_path: Path) -> None:
    checkpointer = make_checkpointer(tmp_path, POLICY)
    checkpointer.begin("auto")
    for step in range(1, 9):
        save(checkpointer, step, 1 / step if step % 2 == 0 else None)
    checkpointer.record(7, {"eval_loss": 9.0})
    checkpointer.close()
    assert not checkpointer.run.evaluated_later(LOSS)
    assert steps(checkpointer.run) == [8]


def test_a_late_value_that_is_no_good_lets_it_go(tmp_path: Path) -> None:
    run = train(tmp_path, saved=4, lag=1, keep=f"{POLICY},pending:1h").run
    record_elsewhere(tmp_path, 4, 99.0)
    checkpointer = make_checkpointer(tmp_path, f"{POLICY},pending:1h")
    checkpointer.begin("auto")
    save(checkpointer, 5)
    checkpointer.close()
    assert steps(run) == [3, 5]


class Later(datetime):
    """A day from now."""

    @classmethod
    def now(cls, tz: Any = None) -> datetime:
        return datetime.now(tz) + timedelta(days=1)


def test_when_the_time_is_over_the_next_prune_removes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = Policy.from_spec(f"{POLICY},pending:1h", LOSS)
    run = train(tmp_path, saved=6, lag=3, keep=f"{POLICY},pending:1h").run
    assert [c.step for c in plan_for(run, policy).remove] == [2]
    monkeypatch.setattr(run_view, "datetime", Later)
    assert [c.step for c in plan_for(run, policy).remove] == [2, 4, 5]


def test_the_past_is_replayed_as_it_was(tmp_path: Path) -> None:
    run = train(tmp_path, saved=8, lag=1, keep="best:2,latest:1").run
    past = replay_past(Chronicle(run).read(), run.policy, {}, run_id=run.id)
    assert list(past.kept) == [d.checkpoint.step for d in plan_for(run, run.policy).decisions if d.stays] == [6, 7, 8]
