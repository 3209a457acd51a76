"""A training that is looked at: hooks, metrics and trackers hear of every commit, and change nothing."""

from __future__ import annotations

import dataclasses
import inspect
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.integrations.transformers.setup.options import Options
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training


def test_attach_takes_exactly_the_options() -> None:
    taken = inspect.signature(keepstep.attach).parameters
    known = {field.name: field.default for field in dataclasses.fields(Options)}
    assert {name: p.default for name, p in taken.items() if name != "trainer"} == known


def test_hooks_and_metrics_of_a_real_training(tmp_path: Path) -> None:
    heard: dict[str, list[Any]] = {"on_commit": [], "on_remove": [], "on_resume": []}
    hooks = {name: events.append for name, events in heard.items()}
    file = tmp_path / "sft.prom"
    for resume, epochs in ((None, 1), ("auto", 2)):
        arguments = {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": epochs}
        trainer = build(Recipe(arguments=arguments), tmp_path / "run")
        ckpt = keepstep.attach(trainer, keep="latest:1", prometheus=str(file), **hooks)
        trainer.train(resume_from_checkpoint=resume)
    steps = trainer.state.max_steps
    assert [event["step"] for event in heard["on_commit"]] == list(range(1, steps + 1))
    assert {event["engine"] for event in heard["on_commit"]} <= {"fast", "stock"}
    assert all(event["durable_seconds"] > 0 for event in heard["on_commit"])
    removed = {event["step"] for event in heard["on_remove"]}
    assert removed == set(range(1, steps + 1)) - {c.step for c in ckpt.run.checkpoints}
    assert [event["step"] for event in heard["on_resume"]] == [steps // 2]
    text = file.read_text()
    assert f'keepstep_saves_total{{run="run",run_id="{ckpt.run.id}"}} {float(steps)}' in text
    assert f'keepstep_in_use{{run="run",run_id="{ckpt.run.id}"}} 0.0' in text


@pytest.mark.parametrize("tracker", ["tensorboard", "trackio"])
def test_the_example_sends_commits_to_a_tracker(tracker: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip(tracker)
    from examples import hooks

    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    made = (
        hooks.tensorboard_hooks(str(tmp_path / "logs")) if tracker == "tensorboard" else hooks.trackio_hooks("p", "r")
    )
    trainer = build(Recipe(arguments={"save_steps": 1, "num_train_epochs": 1}), tmp_path / "run")
    ckpt = keepstep.attach(trainer, keep="latest:1", **made)
    trainer.train()
    steps = list(range(1, trainer.state.max_steps + 1))
    assert [event["step"] for event in ckpt.run.events.read() if event["event"] == "kept"] == steps
    assert _logged(tracker, tmp_path) == steps


def _logged(tracker: str, directory: Path) -> list[int]:
    """The steps whose size the tracker has on disk."""
    if tracker == "tensorboard":
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        found = EventAccumulator(str(directory / "logs"))
        found.Reload()
        return [scalar.step for scalar in found.Scalars("checkpoint/size_gb")]
    import trackio

    trackio.finish()
    logs = trackio.sqlite_storage.SQLiteStorage.get_logs("p", "r")
    return [entry["step"] for entry in logs if "checkpoint/size_gb" in entry]
