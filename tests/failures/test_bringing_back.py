"""A training that is given what an earlier rewind had set aside goes on from it, and it is the run's own again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.failures.build import crash, latest, names, receipt, steps, train

pytestmark = pytest.mark.training

OLD = Path(".keepstep") / "timelines" / "1"


@pytest.fixture
def two_courses(out: Path) -> Path:
    """2 to 10, then again from 4: 6 and 8 of another course; the old 6, 8 and 10 lie aside."""
    crash(out, after=10)
    crash(out, after=8, resume=4)
    assert (steps(out), names(out / OLD)) == ([2, 4, 6, 8], ["checkpoint-6", "checkpoint-8", "checkpoint-10"])
    return out


@pytest.mark.parametrize("how", ["its path", "gen:4"])
@pytest.mark.quick(1)
def test_a_resume_from_what_was_set_aside(two_courses: Path, how: str, said: Callable[[], str]) -> None:
    out = two_courses
    resume = str(out / OLD / "checkpoint-8") if how == "its path" else how
    _, checkpointer = train(out, resume)

    assert receipt(checkpointer).step == 8
    assert receipt(checkpointer).level.value == "exact"
    assert steps(out) == [2, 4, 8, 10, 12]
    assert names(out / ".keepstep" / "timelines" / "2") == ["checkpoint-6", "checkpoint-8"]
    assert [c.parent for c in checkpointer.run.checkpoints] == [None, 1, 3, 4, 8]
    assert latest(checkpointer).timeline == 3
    assert f"checkpoint-8 comes back from {out / OLD / 'checkpoint-8'}: the training goes on from it" in said()


def test_a_resume_that_is_refused_moves_nothing(two_courses: Path) -> None:
    out = two_courses
    with pytest.raises(Exception, match=r"8 of 8|nothing"):
        train(out, "gen:4", max_steps=8)
    assert (steps(out), names(out / OLD)) == ([2, 4, 6, 8], ["checkpoint-6", "checkpoint-8", "checkpoint-10"])


def test_a_resume_from_one_that_is_damaged_is_refused(two_courses: Path) -> None:
    out = two_courses
    (out / OLD / "checkpoint-8" / "optimizer.pt").write_bytes(b"damaged")
    with pytest.raises(Exception, match="is damaged"):
        train(out, "gen:4")
    assert steps(out) == [2, 4, 6, 8]
