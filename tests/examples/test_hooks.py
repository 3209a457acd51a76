"""The hooks of the example hear of commits, removals and failures, and pass them on to a tracker."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from keepstep import Checkpointer, Facts, Metric, Policy
from keepstep.run.hooks import Hooks

PROGRAM = Path(__file__).parents[2] / "examples" / "hooks.py"
LOSSES = {1: 0.5, 2: 0.25, 3: 0.75}


@pytest.fixture
def hooks() -> dict[str, Any]:
    return runpy.run_path(str(PROGRAM))


def train(path: Path, heard: dict[str, Any]) -> None:
    """Three commits, two removals, and word of a write that failed."""
    hooks = Hooks(**heard)
    checkpointer = Checkpointer(path, Policy.from_spec("latest:1", Metric("eval_loss", "min")), hooks=hooks)
    checkpointer.begin("auto")
    for step, loss in LOSSES.items():
        checkpointer.save(Facts(step, metrics={"eval_loss": loss}), lambda d: (d / "w").write_bytes(b"w" * 1000))
    checkpointer.close()
    hooks.hear({"event": "failed", "step": 4, "error": "no room in the boat", "retried": True})


def test_tensorboard_gets_curves_and_texts(tmp_path: Path, hooks: dict[str, Any]) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(tmp_path / "run", hooks["tensorboard_hooks"](str(tmp_path / "logs")))
    found = EventAccumulator(str(tmp_path / "logs")).Reload()
    curve = [(scalar.step, scalar.value) for scalar in found.Scalars("checkpoint/eval_loss")]
    assert curve == list(LOSSES.items())
    assert [scalar.step for scalar in found.Scalars("checkpoint/durable_s")] == list(LOSSES)
    texts = {tag.removesuffix("/text_summary") for tag in found.Tags()["tensors"]}
    assert {"checkpoint/kept", "checkpoint/removed", "checkpoint/failed"} <= texts


def test_trackio_gets_the_numbers_and_an_alert(
    tmp_path: Path, hooks: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    logged: list[tuple[int, dict[str, float]]] = []
    alerts: list[tuple[str, str]] = []
    run = SimpleNamespace(
        log=lambda numbers, step: logged.append((step, numbers)), alert=lambda *said: alerts.append(said)
    )
    monkeypatch.setitem(sys.modules, "trackio", SimpleNamespace(init=lambda **_: run))
    train(tmp_path / "run", hooks["trackio_hooks"]("project", "sft"))
    assert [(step, numbers["checkpoint/eval_loss"]) for step, numbers in logged] == list(LOSSES.items())
    assert all(numbers["checkpoint/size_gb"] > 0 for _, numbers in logged)
    assert alerts == [("a save failed", "no room in the boat")]
