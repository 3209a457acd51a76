"""What a loop judges best by itself stays, until another takes its place."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer
from keepstep.checkpointer.judged import JUDGED
from keepstep.errors import DiskFull
from keepstep.run import Limits
from tests.small_run import make_checkpointer, save, steps


@pytest.fixture
def checkpointer(tmp_path: Path) -> Iterator[Checkpointer]:
    """It keeps the newest alone; step 2 is judged best."""
    checkpointer = make_checkpointer(tmp_path / "run", "latest:1")
    checkpointer.begin(None)
    checkpointer.judged.step = 2
    save(checkpointer, 2)
    save(checkpointer, 4)
    yield checkpointer
    checkpointer.close()


def test_it_stays_with_its_reason(checkpointer: Checkpointer) -> None:
    assert steps(checkpointer.run) == [2, 4]
    assert checkpointer.decide().reasons(1) == (JUDGED,)


def test_it_stays_until_the_next_is_committed(checkpointer: Checkpointer) -> None:
    checkpointer.judged.step = 6
    checkpointer.decide()
    assert steps(checkpointer.run) == [2, 4], "step 6 is not there yet"
    save(checkpointer, 6)
    assert steps(checkpointer.run) == [6]


def test_it_goes_once_nothing_is_judged(checkpointer: Checkpointer) -> None:
    checkpointer.judged.step = None
    checkpointer.decide()
    assert steps(checkpointer.run) == [4]


def test_it_is_not_given_up_for_room(checkpointer: Checkpointer) -> None:
    checkpointer.headroom.limits = Limits(budget=800)
    with pytest.raises(DiskFull):
        save(checkpointer, 6)
    assert steps(checkpointer.run) == [2, 4]


def test_the_next_session_judges_anew(checkpointer: Checkpointer) -> None:
    checkpointer.close()
    checkpointer.begin("auto")
    checkpointer.decide()
    assert 2 not in steps(checkpointer.run)
