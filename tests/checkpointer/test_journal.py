"""A loop of somebody's own: what it logs is in the run's history, and compared with what was logged before."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.operations.seeing.receipts import receipts
from keepstep.run import Evidence, Exactness, History, Reason, Receipt, Run
from tests.small_run import make_checkpointer, save

SAVED = 4


def loss(step: int) -> dict[str, float]:
    return {"loss": 1 / step, "step_time": os.urandom(1)[0]}


def killed(
    path: Path, *steps: int, resume: Any = None, reasons: tuple[Reason, ...] = (), **other: float
) -> Checkpointer:
    """A loop that logs at these steps, saves at 4, and ends without a word; its lock is free as of one that is dead."""
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin(resume)
    if point is not None:
        checkpointer.note_resumed(Receipt(point.checkpoint.step, str(point.path), reasons))
    for step in steps:
        checkpointer.log(step, loss(step) | other, epoch=step / 10)
        if step == SAVED:
            save(checkpointer, step)
    checkpointer.run.lock.release()
    return checkpointer


def observed(path: Path) -> list[dict[str, Any]]:
    return [event for event in Run.open(path).events.read() if event["event"] == "course"]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    killed(tmp_path / "run", 2, 4, 5, 6)
    return tmp_path / "run"


def test_the_course_is_proved(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="keepstep")
    checkpointer = killed(path, 5, 6, 7, 8, resume="auto")
    receipt = checkpointer.receipt
    assert receipt is not None and receipt.course is not None
    assert (receipt.evidence, receipt.level, receipt.course.equal) == (Evidence.PROVED, Exactness.EXACT, (5, 6))
    first, last = observed(path)
    assert (first["course"]["equal"], last["course"]["equal"]) == ([5, 5], [5, 6])
    (told,) = receipts(Run.open(path).events.read())
    assert {name: told[name] for name in receipt.to_json()} == receipt.to_json()
    assert [text for text in caplog.messages if "bit-equal" in text] == [
        "proved: step 5 came out bit-equal to what the interrupted attempt had logged"
    ], "said once"


def test_closing_puts_down_how_far_it_came(path: Path) -> None:
    checkpointer = killed(path, 5, resume="auto")
    assert len(observed(path)) == 1
    checkpointer.close()
    assert len(observed(path)) == 1, "nothing new"
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin("auto")
    assert point is not None
    checkpointer.note_resumed(Receipt(point.checkpoint.step, str(point.path)))
    for step in (5, 6):
        checkpointer.log(step, loss(step))
    checkpointer.close(finished=True)
    assert observed(path)[-1]["course"]["equal"] == [5, 6]
    assert [one.ended for one in _attempts(path)] == [None, None, "finished"]


def test_another_course_is_one_warning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    checkpointer = killed(path, 5, 6, 7, resume="auto", loss=0.5)
    assert checkpointer.receipt is not None and checkpointer.receipt.level is Exactness.APPROXIMATE
    (event,) = observed(path)
    assert (event["level"], event["evidence"], event["course"]["deviation"]["step"]) == ("approximate", "inferred", 5)
    (warning,) = [record for record in caplog.records if "another course" in record.getMessage()]
    assert warning.levelname == "WARNING"
    assert "the resume from step 4 is approximate after all: from step 5 on" in warning.getMessage()


def test_where_settings_changed_it_is_said_calmly(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="keepstep")
    reason = Reason(Exactness.APPROXIMATE, "learning_rate was 0.1, now 0.2")
    checkpointer = killed(path, 5, resume="auto", reasons=(reason,), loss=0.5)
    assert checkpointer.receipt is not None and checkpointer.receipt.reasons == (reason,)
    (record,) = [record for record in caplog.records if "another course" in record.getMessage()]
    assert record.levelname == "INFO" and record.getMessage().endswith(", as was to be expected: approximate")


def test_an_attempt_with_other_settings_is_no_measure(path: Path) -> None:
    killed(path, 5, 6, 7, 8, resume="auto", reasons=(Reason(Exactness.APPROXIMATE, "x"),), loss=0.5)
    checkpointer = killed(path, 5, 6, 7, resume="auto")
    assert checkpointer.receipt is not None and checkpointer.receipt.course is not None
    assert checkpointer.receipt.course.equal == (5, 6)


def test_another_run_s_checkpoint_has_no_course(path: Path, tmp_path: Path) -> None:
    checkpointer = killed(tmp_path / "other", 5, resume=path / "checkpoint-4")
    assert checkpointer.receipt is not None
    assert checkpointer.receipt.lines()[-1] == "course: nothing logged to compare the course with"


def test_a_history_that_can_not_be_read_hurts_nothing(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    history = path / ".keepstep" / "metrics.jsonl"
    history.unlink()
    history.mkdir()
    checkpointer = killed(path, 5, resume="auto")
    assert checkpointer.receipt is not None and checkpointer.receipt.course is None
    assert any("the course is not compared" in text for text in caplog.messages)


def test_outside_of_a_session_nothing_is_noted(tmp_path: Path) -> None:
    checkpointer = make_checkpointer(tmp_path / "run")
    checkpointer.log(1, {"loss": 1.0})
    checkpointer.begin(None)
    checkpointer.save(Facts(1), lambda directory: (directory / "x").touch())
    checkpointer.close()
    checkpointer.log(2, {"loss": 1.0})
    checkpointer.begin_log(9)
    assert not (tmp_path / "run" / ".keepstep" / "metrics.jsonl").exists()


def _attempts(path: Path) -> Any:
    history = History(Run.open(path).store)
    history.read()
    return history.attempts
