"""An export beside a real training that prunes meanwhile: what is read stays, and goes when it is done."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

import keepstep
from keepstep.errors import CheckpointNotFound
from keepstep.integrations.transformers.exporting import exporter
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.run import Run
from tests.training.commands import Command, Shell
from tests.training.exported import complaints, llama, make_run, same, tensors_of
from tests.training.tiny import Recipe, build

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def _train(directory: Path, steps: int, keep: str, resume: Any = None) -> Run:
    trainer = build(Recipe(arguments={"max_steps": steps, "save_strategy": "steps", "save_steps": 1}), directory)
    keepstep.attach(trainer, keep=keep)
    trainer.train(resume_from_checkpoint=resume)
    return Run.open(directory)


def _stop_before_the_check() -> None:
    check = exporter.check_export

    def check_export(*arguments: Any) -> Any:
        os.kill(os.getpid(), signal.SIGSTOP)
        return check(*arguments)

    exporter.check_export = check_export


@contextmanager
def _stopped_export(shell: Shell, run: Run, reference: str, out: Path) -> Generator[Command]:
    """A `keepstep export` in a process of its own, stopped while it works."""
    export = shell.begin("export", run.path, reference, out, "--dtype", "bf16", before=_stop_before_the_check)
    try:
        while not export.stopped:
            time.sleep(0.005)
        yield export
    finally:
        export.process.kill()


def test_a_training_removes_what_is_exported_when_the_export_is_done(tmp_path: Path, shell: Shell) -> None:
    run = _train(tmp_path / "run", 2, "latest:2")
    source = tensors_of(run.path / "checkpoint-1")
    with _stopped_export(shell, run, "1", tmp_path / "out") as export:
        run = _train(tmp_path / "run", 4, "latest:1", "auto")
        assert [checkpoint.step for checkpoint in run.checkpoints] == [1, 4]
        assert run.plan().reasons(1) == ("being exported",)
        export.send(signal.SIGCONT)
        done = export.end()
        assert (done.returncode, complaints(done.stderr)) == (0, [])
    assert same(tensors_of(tmp_path / "out"), {name: t.to(torch.bfloat16) for name, t in source.items()})
    with run.writing():
        apply_plan(run, run.plan())
    assert [checkpoint.step for checkpoint in run.checkpoints] == [4]


def test_an_export_that_was_killed_holds_nothing(tmp_path: Path, shell: Shell) -> None:
    run = _train(tmp_path / "run", 2, "latest:2")
    with _stopped_export(shell, run, "1", tmp_path / "out") as export:
        export.send(signal.SIGKILL)
        assert export.end().returncode == -signal.SIGKILL
    run = _train(tmp_path / "run", 4, "latest:1", "auto")
    assert [checkpoint.step for checkpoint in run.checkpoints] == [4]


def test_a_rewind_in_the_middle_is_said_as_what_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run", {10: llama(1), 20: llama(2)})
    copy = exporter.copy_files

    def rewind_then_copy(*arguments: Any) -> None:
        with run.writing():
            run.rewind(run.find(10))
        copy(*arguments)

    monkeypatch.setattr(exporter, "copy_files", rewind_then_copy)
    with pytest.raises(CheckpointNotFound, match="checkpoint-20 went away while it was exported"):
        keepstep.export(run, tmp_path / "out", reference=20)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
