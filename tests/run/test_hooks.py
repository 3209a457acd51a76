"""Hooks hear what the event log holds, in every case that they are for, and can harm nothing."""

from __future__ import annotations

import errno
import logging
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.errors import SettingsError
from keepstep.retention import Metric, Policy
from keepstep.run import Event, Hooks, Limits, Receipt
from tests.operations.runs import write

LOSS = Metric("eval_loss", "min")


def _train(path: Path, hooks: Hooks, losses: dict[int, float], keep: str = "best:1,latest:1") -> Checkpointer:
    checkpointer = Checkpointer(path, Policy.from_spec(keep, LOSS), hooks=hooks)
    checkpointer.begin("auto")
    try:
        for step, loss in losses.items():
            checkpointer.save(Facts(step, metrics={"eval_loss": loss}), write)
    finally:
        checkpointer.close()
    return checkpointer


def test_a_commit_is_heard_with_its_cost_and_its_reasons(tmp_path: Path) -> None:
    heard: list[Event] = []
    run = _train(tmp_path, Hooks(on_commit=heard.append), {1: 2.0, 2: 1.5}).run
    assert [(event["name"], event["value"]) for event in heard] == [("checkpoint-1", 2.0), ("checkpoint-2", 1.5)]
    assert all(0 < event["durable_seconds"] <= event["blocked_seconds"] for event in heard)
    assert heard[1]["reasons"][0].startswith("best 1 of 1")
    assert [event for event in run.events.read() if event["event"] == "kept"] == [
        {**event, "time": event["time"].isoformat().replace("+00:00", "Z")} for event in heard
    ]


@pytest.mark.parametrize(("now", "known"), [(0.5, ("exact", "proved")), (0.25, ("approximate", "inferred"))])
def test_what_is_known_of_a_resume_later_is_heard_too(tmp_path: Path, now: float, known: tuple[str, str]) -> None:
    heard: list[Event] = []
    policy = Policy.from_spec("all")
    for losses in ((1.0, 0.5), (None, now)):
        checkpointer = Checkpointer(tmp_path, policy, hooks=Hooks(on_resume=heard.append))
        point = checkpointer.begin("auto")
        if point is not None:
            checkpointer.note_resumed(Receipt(point.checkpoint.step, str(point.path)))
        for step, loss in enumerate(losses, start=1):
            if loss is not None:
                checkpointer.log(step, {"loss": loss})
            if step == 1 and point is None:
                checkpointer.save(Facts(1), write)
        checkpointer.close()
    assert [event["event"] for event in heard] == ["resumed", "course"]
    assert (heard[0]["level"], heard[0]["evidence"]) == ("exact", "inferred")
    assert (heard[-1]["level"], heard[-1]["evidence"]) == known
    assert heard[0].keys() == heard[-1].keys()


def test_what_goes_is_heard(tmp_path: Path) -> None:
    heard: list[Event] = []
    _train(tmp_path, Hooks(on_remove=heard.append), {1: 1.0, 2: 1.5, 3: 1.7})
    assert [(event["event"], event["step"]) for event in heard] == [("thinned", 1), ("removed", 2)]
    assert all(event["reason"] for event in heard)


def test_a_write_that_fails_and_a_save_without_room_are_heard(tmp_path: Path) -> None:
    heard: list[Event] = []
    checkpointer = Checkpointer(tmp_path, "latest:1", hooks=Hooks(on_failure=heard.append))
    checkpointer.begin("auto")
    attempts: list[Path] = []

    def write_badly(directory: Path) -> None:
        attempts.append(directory)
        if len(attempts) == 1:
            raise OSError(errno.EIO, "Input/output error")
        write(directory)

    checkpointer.save(Facts(1), write_badly)
    checkpointer.headroom.limits = Limits(budget=1500)
    with pytest.raises(OSError, match="budget") as refused:
        checkpointer.save(Facts(2), write)
    checkpointer.refuse(2, refused.value)  # pyright: ignore[reportArgumentType]
    checkpointer.close()
    assert [(event["event"], event["step"]) for event in heard] == [("failed", 1), ("refused", 2)]


def test_a_hook_that_raises_harms_nothing_and_is_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def raises(event: Event) -> None:
        raise ValueError("the tracker is down")

    with caplog.at_level(logging.ERROR, "keepstep"):
        run = _train(tmp_path, Hooks(on_commit=raises, on_remove=raises), {1: 2.0, 2: 1.5}).run
    assert [checkpoint.step for checkpoint in run.checkpoints] == [2]
    assert "on_commit raised at 'kept' of step 1" in caplog.text
    assert "the tracker is down" in caplog.text


def test_hooks_of_a_second_training_are_called_once(tmp_path: Path) -> None:
    heard: list[Event] = []
    hooks = Hooks(on_commit=heard.append)
    _train(tmp_path, hooks, {1: 2.0})
    _train(tmp_path, hooks, {2: 1.0})
    assert [event["step"] for event in heard] == [1, 2]


def test_what_cannot_be_called_is_refused() -> None:
    with pytest.raises(SettingsError, match="on_commit is 'print'"):
        Hooks(on_commit="print")  # pyright: ignore[reportArgumentType]
