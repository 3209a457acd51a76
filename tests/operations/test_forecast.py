"""The forecast against what a training that goes on then really takes."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.model import Damage
from keepstep.operations.seeing import forecast as module
from keepstep.operations.seeing.forecast import Ahead, Forecast, forecast
from keepstep.retention import Policy
from tests.checkpoints import EPOCH, make_checkpoint
from tests.operations.runs import LOSS, SIZE, make_run, write


def ask(keep: str, count: int, ahead: Ahead, *, free: int = 10**9, budget: int | None = None) -> Forecast:
    checkpoints = [
        make_checkpoint(n, metrics={"eval_loss": 1 / n}, size=300, optimizer=700) for n in range(1, count + 1)
    ]
    found = forecast(checkpoints, Policy.from_spec(keep, LOSS), ahead, free_bytes=free, budget=budget, now=EPOCH)
    assert found is not None
    return found


@pytest.mark.parametrize("keep", ["all", "latest:3", "best:2:full,latest:2", "every:40,latest:1", "best:2,latest:1"])
@pytest.mark.parametrize("falls", [True, False])
def test_it_is_never_below_what_is_taken_then(tmp_path: Path, keep: str, falls: bool) -> None:
    losses = {step: 100.0 - step if falls else float(step) for step in range(10, 101, 10)}
    begun = make_run(tmp_path / "a", {step: losses[step] for step in (10, 20, 30)}, keep=keep)
    found = forecast(begun.checkpoints, begun.policy, Ahead(100, 10, 30), free_bytes=10**9, now=EPOCH)
    assert found is not None and found.saves_left == 7 and found.per_checkpoint == SIZE
    checkpointer = Checkpointer(begun.path, begun.policy)
    checkpointer.begin("auto")
    most = 0
    for step in range(40, 101, 10):
        checkpointer.save(Facts(step, metrics={"eval_loss": losses[step]}), write)
        most = max(most, sum(one.size_bytes for one in checkpointer.run.checkpoints))
    checkpointer.close()
    taken = sum(one.size_bytes for one in begun.checkpoints)
    assert taken <= found.at_end and most <= found.peak
    assert found.at_end <= taken + 2 * SIZE  # and it is no wild guess either


def test_the_last_step_is_saved_too() -> None:
    assert Ahead(105, 10, 80).saves == (90, 100, 105)
    assert Ahead(100, 10, 80).saves == (90, 100)
    assert Ahead(100, 10, 100).saves == ()
    assert Ahead(100, 10, 85).saves == (90, 100)


def test_a_disk_that_fills_is_told_with_the_step() -> None:
    found = ask("all", 3, Ahead(1_000, 100, 300), free=3_500)
    assert not found.fits and found.full_at == 700 and "step 700" in found.verdict
    assert ask("latest:2", 3, Ahead(1_000, 100, 300), free=3_500).fits


def test_a_budget_is_kept_as_in_training() -> None:
    found = ask("all", 3, Ahead(2_000, 100, 300), budget=5_000)
    assert found.fits and found.at_end <= 5_000 and "within the budget" in found.verdict
    tight = ask("all", 3, Ahead(2_000, 100, 300), budget=500)
    assert not tight.fits and "more than the budget" in tight.verdict


def test_thousands_of_saves_go_on_as_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = ask("every:1000,latest:2", 3, Ahead(40_000, 100, 300))
    monkeypatch.setattr(module, "MOST_PLANNED", 128)
    rough = ask("every:1000,latest:2", 3, Ahead(40_000, 100, 300))
    assert abs(rough.at_end - exact.at_end) <= 0.1 * exact.at_end
    assert ask("latest:2", 3, Ahead(10**6, 10, 300)).at_end == 2 * SIZE


def test_nothing_is_foretold_before_the_first_save() -> None:
    assert forecast([], Policy.from_spec("all"), Ahead(100, 10, 0), free_bytes=1) is None


def test_saves_to_come_are_not_damaged_because_the_newest_is() -> None:
    checkpoints = [make_checkpoint(n, metrics={"eval_loss": 1 / n}, size=300, optimizer=700) for n in (1, 2)]
    hurt = [checkpoints[0], checkpoints[1].known(Damage.WEIGHTS)]
    policy = Policy.from_spec("latest:1", LOSS)
    found = forecast(hurt, policy, Ahead(1_000, 100, 200), free_bytes=10**9, now=EPOCH)
    assert found is not None and found.at_end == 2 * SIZE, "the damaged one, which stays, and the newest"
