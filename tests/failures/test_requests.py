"""What other processes ask of a training that runs: to say how it is, to save, to stop."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from keepstep import Preempted
from keepstep.errors import NobodyTrains, NotAnswered
from keepstep.operations.requesting import answers, ask
from keepstep.run import Requests, Run
from tests.failures.build import events, managed, steps, train

pytestmark = pytest.mark.training

KEEPSTEP = [sys.executable, "-c", "from keepstep.cli.main import main; main()"]


class Asking(TrainerCallback):
    """Runs one command after the other while the training goes on, each from step 2 on."""

    def __init__(self, *commands: list[str]) -> None:
        self.waiting = list(commands)
        self.running: subprocess.Popen[str] | None = None
        self.found: list[tuple[int, Any]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self.running is None and state.global_step >= 2 and self.waiting:
            command = [*KEEPSTEP, *self.waiting.pop(0), "--format", "json"]
            self.running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        if self.running is not None:
            time.sleep(0.02)
            self.take()

    def take(self, *, wait: bool = False) -> None:
        """Take what a command has said."""
        if self.running is not None and (wait or self.running.poll() is not None):
            said, _ = self.running.communicate()
            self.found.append((self.running.returncode, json.loads(said)))
            self.running = None


def test_status_save_now_and_stop_of_a_training_that_runs(out: Path) -> None:
    run = str(out)
    asking = Asking(["save-now", run, "--wait"], ["status", run], ["stop", run, "--wait"])
    trainer, checkpointer = managed(out, callbacks=[asking], max_steps=10_000, save_steps=5_000, eval_strategy="no")
    with pytest.raises(Preempted, match="keepstep stop, by process"):
        trainer.train()
    asking.take(wait=True)
    (saved, answer), (seen, status), (ended, stopped) = asking.found
    assert (saved, seen, ended) == (0, 0, 0)
    first, last = steps(out)
    assert answer["answer"] == f"saved as checkpoint-{first}"
    assert (answer["done"], stopped["done"], stopped["answer"]) == (True, True, "the training is stopped")
    assert status["alive"] and status["state"] == "training"
    assert status["holder"]["pid"] == os.getpid()
    assert (status["max_steps"], status["resumes_from"]["step"]) == (10_000, first)
    assert status["seconds_per_step"] is None or status["eta_s"] > 0
    assert last == trainer.state.global_step
    assert checkpointer.preempted is not None
    assert not list((out / ".keepstep" / "requests").iterdir())
    over = subprocess.run([*KEEPSTEP, "save-now", run], capture_output=True, text=True, check=False)
    assert over.returncode == NobodyTrains.exit_code
    assert "nobody trains in" in over.stderr


def test_what_was_asked_of_a_training_that_is_gone_is_not_done_by_the_next(out: Path) -> None:
    train(out, max_steps=2)
    Requests(Run.open(out).store).ask("stop")
    train(out, "auto", max_steps=4)
    assert steps(out)[-1] == 4
    (answer,) = events(out, "answered")
    assert (answer["done"], answer["what"]) == (False, "stop")


def test_who_waits_in_vain_is_told_and_takes_the_request_back(out: Path) -> None:
    checkpointer = train(out, max_steps=2)[1]
    run = Run.open(out)
    with pytest.raises(NobodyTrains):
        ask(run, "save")
    checkpointer.begin("auto")
    try:
        request = ask(run, "save")
        with pytest.raises(NotAnswered, match="has not come to the end of a step"):
            list(answers(run, request, 0.0))
        assert Requests(run.store).waiting() == []
    finally:
        checkpointer.close()
