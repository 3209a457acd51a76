"""A training goes on in a directory that the stock Trainer filled: what is there is adopted, and said."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from keepstep.errors import RunInUse
from keepstep.retention import Metric
from keepstep.run import Run, StockRun
from tests.failures.build import SAVE_POINTS, Crashed, crash, interrupted_at, managed, stock, train

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a stock training left that was stopped after step 6 of 12."""
    home = tmp_path_factory.mktemp("stock") / "out"
    crash(home, 6, attached=False)
    return home


@pytest.fixture
def used(filled: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(filled, tmp_path / "out"))


def steps(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints]


@pytest.mark.parametrize("resume", [True, "auto", "latest", 6, "path", "relative"])
@pytest.mark.quick("True", "path")
def test_a_resume_goes_on_and_adopts(
    used: Path, resume: Any, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if resume == "path":
        resume = os.fspath(used / "checkpoint-6")
    if resume == "relative":
        monkeypatch.chdir(used.parent)
        resume = "out/checkpoint-6"
    with caplog.at_level(logging.INFO, "keepstep"):
        trainer, _ = train(used, resume=resume)
    control = stock(used.parent / "control")
    shutil.copytree(used / "checkpoint-6", used.parent / "control" / "checkpoint-6")
    control.train(resume_from_checkpoint=os.fspath(used.parent / "control" / "checkpoint-6"))
    for name, value in control.model.state_dict().items():
        assert value.equal(trainer.model.state_dict()[name]), name
    run = Run.open(used)
    assert steps(run) == [2, 4, 6, 8, 10, 12]
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)
    assert [checkpoint.parent for checkpoint in run.checkpoints] == [None, 1, 2, 3, 4, 5]
    assert "it adopts them" in caplog.text


def test_one_that_is_torn_is_passed_over_and_stays(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    torn = used / "checkpoint-6" / "optimizer.pt"
    torn.write_bytes(torn.read_bytes()[:100])
    with caplog.at_level(logging.INFO, "keepstep"):
        train(used, resume=True, save_steps=100)
    assert "Resuming from step 4 instead" in caplog.text
    assert 100 in [path.stat().st_size for path in used.rglob("optimizer.pt")], "what was torn is kept"


def test_an_older_one_by_its_path_sets_newer_ones_aside_in_a_line(used: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "keepstep"):
        train(used, resume=os.fspath(used / "checkpoint-2"), save_steps=100)
    run = Run.open(used)
    assert [checkpoint.step for checkpoint in run.aside] == [4, 6]
    assert "set aside" in caplog.text


def test_a_fresh_start_is_no_adoption(used: Path) -> None:
    trainer, _ = managed(used)
    with pytest.raises(RunInUse, match="that keepstep did not commit"):
        trainer.train()
    assert not (used / ".keepstep" / "run.json").exists()


def test_the_best_of_before_counts_at_the_end(used: Path) -> None:
    """By the values that the stock training logged: step 6 was better than anything to come."""
    trainer, _ = train(
        used, resume=True, scores={8: 0.1, 10: 0.2, 12: 0.3}, metric_for_best_model="loss", greater_is_better=True,
        load_best_model_at_end=True,
    )  # fmt: skip
    run = Run.open(used)
    best = run.best
    assert best is not None
    values = {checkpoint.step: checkpoint.metrics["eval_loss"] for checkpoint in run.checkpoints}
    assert best.step == max(values, key=lambda step: values[step])
    assert trainer.state.best_model_checkpoint is not None
    assert trainer.state.best_model_checkpoint.endswith(f"checkpoint-{best.step}")


@pytest.mark.parametrize("point", SAVE_POINTS)
@pytest.mark.quick(1)
def test_a_save_that_was_killed_is_torn_and_the_ones_before_are_whole(tmp_path: Path, point: str) -> None:
    def stop() -> None:
        raise Crashed

    with pytest.raises(Crashed):
        stock(tmp_path, trainer_class=interrupted_at(point, stop)).train()
    run = StockRun.open(tmp_path)
    words = {checkpoint.step: run.word_for(checkpoint) for checkpoint in run.checkpoints}
    begun = {6: "torn"} if (tmp_path / "checkpoint-6").exists() else {}  # before its first file there is nothing
    assert words == {2: "not managed", 4: "not managed", **begun}
    assert run.resume_point().checkpoint.step == 4


@pytest.mark.parametrize("kind", [{}, {"lora": {}}, {"save_only_model": True}], ids=["full", "lora", "weights"])
def test_what_this_version_of_the_trainer_writes_is_whole(tmp_path: Path, kind: dict[str, Any]) -> None:
    stock(tmp_path, max_steps=4, metric_for_best_model="loss", **kind).train()
    run = StockRun.open(tmp_path)
    assert [run.word_for(checkpoint) for checkpoint in run.checkpoints] == ["not managed"] * 2
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)
    assert run.policy.metric == Metric("eval_loss", "min")
    assert run.settings is not None and run.settings.values["save_steps"] == 2
    assert [checkpoint.resumable for checkpoint in run.checkpoints] == [not kind.get("save_only_model")] * 2
