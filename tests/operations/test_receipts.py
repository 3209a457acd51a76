"""Receipts as the event log has them: with what was observed of the course since, and whatever shape events have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from keepstep.operations.seeing.chronicle import Chronicle
from keepstep.operations.seeing.receipts import receipt_of, receipts, told
from keepstep.operations.seeing.showing import show
from keepstep.run import Course, Receipt, Run
from keepstep.run.course import Deviation
from tests.operations.runs import make_run

EQUAL = Course((3, 5), (3, 4), 6)
LEFT = Course((3, 5), (3, 3), 2, deviation=Deviation(4, "loss", 1.0, 2.0))


def resume(run: Run, step: int, *courses: Course, compared: str = "") -> Receipt:
    """Put down a resume from a step, and what was observed of its course."""
    receipt = Receipt(step, str(run.path / f"checkpoint-{step}"), compared=compared)
    run.events.append("resumed", **receipt.to_json())
    for course in courses:
        receipt = receipt.observed(course)
        run.events.append("course", **receipt.to_json())
    return receipt


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.5, 2: 0.4})


def test_the_last_word_of_each_resume(run: Run) -> None:
    first = resume(run, 1)
    second = resume(run, 2, EQUAL, LEFT)
    third = resume(run, 2, EQUAL, compared="all of them equal what was saved")
    known = receipts(run.events.read())
    assert [told(one) for one in known] == [first.lines(), second.lines(), third.lines()]
    assert Chronicle(run).read().receipts == known
    checkpoint = run.checkpoints[-1]
    assert told(receipt_of(known, checkpoint)) == third.lines()
    details = show(run, "2")
    assert (told(details.receipt), details.to_json()["receipt"]) == (third.lines(), details.receipt)


def test_no_resume_no_receipt(run: Run) -> None:
    assert show(run, "1").receipt is None
    assert told(None) == []


@pytest.mark.parametrize(
    "fields",
    [{}, {"level": 3, "reasons": 4}, {"level": "exact", "reasons": ["x"], "verified": 1, "passed_over": 5}],
)
def test_events_of_any_shape(run: Run, fields: dict[str, Any]) -> None:
    run.events.append("course", step=1, **fields)
    run.events.append("resumed", step=1, path=str(run.path / "checkpoint-1"), **fields)
    run.events.append("course", step=1, level="exact", course=[])
    run.events.append("course", step=7, level="unlike")
    (known,) = Chronicle(run).read().receipts
    assert known["level"] == "exact"
    assert told(known) == []
