"""When a save is due by the clock: a clock of the test's own, and one that attempts before have already run down."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer
from keepstep.checkpointer.cadence import Cadence, spent_since
from keepstep.errors import QuantityError
from keepstep.retention import Policy
from keepstep.run import Attempt, History, Point, Run
from tests.small_run import LOSS, save

T0 = datetime(2026, 1, 1, tzinfo=UTC)


class Hand:
    """A clock that is moved by hand, in seconds."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.mark.parametrize(("text", "seconds"), [("20m", 1200), ("2h", 7200), ("90s", 90), ("1.5min", 90)])
def test_it_is_due_when_so_much_has_passed_since_the_last_save(text: str, seconds: float) -> None:
    hand = Hand()
    cadence = Cadence(text, hand)
    assert not cadence.due
    hand.now += seconds - 1
    assert not cadence.due
    hand.now += 1
    assert cadence.due
    cadence.saved()
    assert not cadence.due
    cadence.start(spent=seconds)
    assert cadence.due


def test_without_an_interval_it_never_is() -> None:
    hand = Hand()
    cadence = Cadence(None, hand)
    hand.now += 1e9
    assert not cadence.due


@pytest.mark.parametrize("text", ["20", "", "soon", "0s", 20])
def test_what_is_no_duration_is_named(text: str) -> None:
    with pytest.raises(QuantityError, match="save_every"):
        Cadence(text)


def test_any_save_begins_the_count_anew(tmp_path: Path) -> None:
    checkpointer = Checkpointer(tmp_path / "run", Policy.from_spec("all", LOSS), save_every="10m")
    checkpointer.cadence.clock = hand = Hand()
    checkpointer.begin("auto")
    hand.now += 600
    assert checkpointer.due
    save(checkpointer, 2)
    assert not checkpointer.due
    checkpointer.close()


def test_training_that_was_lost_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed every 8 minutes, a run of `save_every="10m"` is saved all the same: what was lost is on the clock."""
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, Policy.from_spec("all", LOSS), save_every="10m")
    checkpointer.cadence.clock = hand = Hand()
    checkpointer.begin("auto")
    save(checkpointer, 2)
    checkpointer.close()
    created = Run.open(path).checkpoints[-1].created
    history = History(Run.open(path).store)
    monkeypatch.setattr("keepstep.run.history.time.time", lambda: created.timestamp() + 480)
    history.begin(from_step=2, from_generation=1)
    history.log(3, None, {"loss": 1.0})
    history.end(None)

    checkpointer.begin("auto")
    hand.now += 60
    assert not checkpointer.due
    hand.now += 70
    assert checkpointer.due
    checkpointer.close()


def test_only_attempts_that_nothing_was_saved_of_count() -> None:
    attempts = [
        Attempt(1, T0, None, None, 1, first_generation=1),
        Attempt(2, T0 + timedelta(hours=1), 4, 1, 1, first_generation=2),
        Attempt(3, T0 + timedelta(hours=2), 9, 7, 1, first_generation=8),
    ]
    points = [
        Point(n, 5, None, (T0 + timedelta(hours=n - 1, minutes=m)).timestamp(), {}) for n, m in ((1, 9), (2, 5), (3, 4))
    ]
    assert spent_since(None, attempts, points) == 9 * 60
    assert spent_since(None, attempts[1:], points) == 0
