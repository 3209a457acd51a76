"""Several trainings in one process and directory, as notebooks and sweeps have them; the stock Trainer as control."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import keepstep
from keepstep import units
from keepstep.errors import ResumeRefused, RunInUse
from keepstep.run import Run
from tests.failures.build import (
    CrashAfter,
    Crashed,
    best,
    crash,
    events,
    in_child,
    managed,
    names,
    receipt,
    same,
    steps,
    stock,
    train,
    weights,
)

pytestmark = pytest.mark.training


class Interrupt(CrashAfter):
    """Ctrl-C, once."""

    def __init__(self, step: int) -> None:
        super().__init__(step, KeyboardInterrupt)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.step = -1
            raise self.error


def home_of(run: Run, out: Path) -> Path:
    return out / ".keepstep" / "previous" / run.id


def test_a_cell_that_is_run_twice(out: Path, said: Callable[[], str]) -> None:
    """train() in a cell that is run twice | overwrites some checkpoints and keeps others | the former is set aside."""
    first, _ = train(out, max_steps=8)
    old, kept = Run.open(out), names(out)
    said()

    second, checkpointer = train(out)

    home = home_of(old, out)
    assert names(home) == kept == ["checkpoint-2", "checkpoint-4", "checkpoint-6", "checkpoint-8"]
    assert steps(out) == [2, 4, 6, 8, 10, 12]
    (line,) = [line for line in said().splitlines() if "is set aside" in line]
    assert f'train(resume_from_checkpoint="{home}/checkpoint-8") goes on from it' in line
    assert "this process trained it" in line
    assert (first.state.global_step, second.state.global_step) == (8, 12)
    (event,) = events(out, "set_aside")
    assert event["run_id"] == old.id
    assert checkpointer.run.id != old.id


@pytest.mark.long
def test_a_cell_that_is_run_twice_under_stock(out: Path) -> None:
    """train() in a cell that is run twice | overwrites some checkpoints and keeps others."""
    stock(out).train()
    stock(out, max_steps=8, seed=3).train()

    assert "checkpoint-12" in names(out), "of the first training, and newer than what the second wrote"


def test_the_same_trainer_trains_again(out: Path) -> None:
    """train() twice | goes on with the weights it has, from step 0 | the same weights, the former set aside."""
    control = stock(out.with_name("stock"))
    control.train()
    control.train()
    trainer, checkpointer = managed(out)
    trainer.train()
    old = Run.open(out)

    trainer.train()

    assert same(weights(trainer.model), weights(control.model))
    assert trainer.state.global_step == control.state.global_step == 12
    assert steps(home_of(old, out)) == steps(out) == [2, 4, 6, 8, 10, 12]
    assert checkpointer.receipt is None


def test_what_was_set_aside_is_gone_on_from_by_its_path(out: Path) -> None:
    """What the line says: the former training goes on, exactly, beside what the later one saved."""
    reference, _ = train(out.with_name("reference"))
    crashed, _ = managed(out, callbacks=[CrashAfter(6)])
    with pytest.raises(Crashed):
        crashed.train()
    old = Run.open(out)
    train(out, max_steps=2, seed=3)

    trainer, checkpointer = train(out, f"{home_of(old, out)}/checkpoint-6")

    assert same(weights(trainer.model), weights(reference.model))
    assert (receipt(checkpointer).step, receipt(checkpointer).level) == (6, "exact")
    assert steps(out) == [8, 10, 12]
    assert steps(home_of(old, out)) == [2, 4, 6]


SCORED: dict[str, Any] = {
    "metric_for_best_model": "accuracy", "load_best_model_at_end": True, "save_total_limit": 2,
}  # fmt: skip


@pytest.fixture
def elsewhere(out: Path) -> Path:
    """Step 6 of an unfinished training in another directory; its own best comes later."""
    crash(out.with_name("elsewhere"), after=6, **SCORED, scores=dict.fromkeys(range(13), 0.1))
    return out.with_name("elsewhere") / "checkpoint-6"


@pytest.mark.long
def test_from_another_directory_under_stock(out: Path, elsewhere: Path) -> None:
    """train(path of another training) where checkpoints are | both courses in one directory."""
    stock(out, max_steps=8, seed=3).train()
    stock(out).train(resume_from_checkpoint=str(elsewhere))

    assert names(out) == [f"checkpoint-{step}" for step in (2, 4, 6, 8, 10, 12)]
    early = json.loads((out / "checkpoint-2" / "trainer_state.json").read_text())
    late = json.loads((out / "checkpoint-12" / "trainer_state.json").read_text())
    assert early["max_steps"] != late["max_steps"]


def test_from_another_directory(out: Path, elsewhere: Path, said: Callable[[], str]) -> None:
    """train(path of another training) where checkpoints are | they are set aside, and the course is as in a new one."""
    scores = {8: 0.2, 10: 0.5, 12: 0.3}
    reference, _ = train(out.with_name("reference"), elsewhere, **SCORED, scores=scores)
    train(out, max_steps=8, seed=3, **SCORED, scores={2: 0.9, 4: 0.8})
    old, left = Run.open(out), steps(out)
    said()

    trainer, checkpointer = train(out, elsewhere, **SCORED, scores=scores)

    assert same(weights(trainer.model), weights(reference.model))
    assert (receipt(checkpointer).step, receipt(checkpointer).level) == (6, "exact")
    assert steps(out) == steps(out.with_name("reference"))
    assert best(checkpointer).step == 10, "none of the other's"
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-10")
    assert steps(home_of(old, out)) == left
    (line,) = [line for line in said().splitlines() if "is set aside" in line]
    assert f"Going on from {elsewhere} in {out}" in line
    assert [event["event"] for event in Run.open(out).events.read()][:3] == ["run", "set_aside", "resumed"]


def test_from_another_directory_over_an_unfinished_run_is_refused(out: Path, elsewhere: Path) -> None:
    """In a new process: as a fresh start, that is a forgotten resume."""
    assert in_child(lambda: unfinished(out)) == (0, "crashed")

    with pytest.raises(RunInUse, match=r'"auto"'):
        train(out, elsewhere)

    assert steps(out) == [2, 4]


def test_from_another_directory_with_what_does_not_fit_moves_nothing(out: Path, elsewhere: Path) -> None:
    """Another optimizer: refused before anything is set aside, and "auto" goes on as before."""
    train(out, max_steps=8)

    with pytest.raises(ResumeRefused, match="optimizer"):
        train(out, elsewhere, optim="sgd")

    assert steps(out) == [2, 4, 6, 8]
    assert not (out / ".keepstep" / "previous").exists()


@pytest.mark.parametrize("other", [False, True], ids=["the same trainer", "a new one"])
@pytest.mark.quick(1)
def test_after_ctrl_c_auto_goes_on(out: Path, other: bool) -> None:
    """Ctrl-C in a cell, resumed in the next: exact."""
    reference, _ = train(out.with_name("reference"))
    trainer, checkpointer = managed(out, callbacks=[Interrupt(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()

    if other:
        trainer, checkpointer = managed(out)
    trainer.train(resume_from_checkpoint="auto")

    assert receipt(checkpointer).step == 4
    assert receipt(checkpointer).level == "exact"
    assert same(weights(trainer.model), weights(reference.model))
    assert not (out / ".keepstep" / "previous").exists()


@pytest.mark.parametrize("other", [False, True], ids=["the same trainer", "a new one"])
@pytest.mark.quick(1)
def test_after_ctrl_c_a_fresh_start_sets_the_attempt_aside(out: Path, other: bool) -> None:
    """Ctrl-C in a cell, train() in the next: as stock goes on, and the attempt is kept."""
    trainer, _ = managed(out, callbacks=[Interrupt(5)])
    with pytest.raises(KeyboardInterrupt):
        trainer.train()
    old = Run.open(out)

    if other:
        trainer, _ = managed(out)
    trainer.train()

    assert trainer.state.global_step == 12
    assert steps(home_of(old, out)) == [2, 4]
    assert steps(out) == [2, 4, 6, 8, 10, 12]


def test_one_epoch_more(out: Path) -> None:
    """The same trainer with one epoch more goes on, as with stock."""
    control = stock(out.with_name("stock"), num_train_epochs=1)
    control.train()
    control.args.num_train_epochs = 2
    control.train(resume_from_checkpoint=True)
    trainer, checkpointer = managed(out, num_train_epochs=1)
    trainer.train()

    trainer.args.num_train_epochs = 2
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.global_step == control.state.global_step == 12
    assert receipt(checkpointer).step == 6
    assert same(weights(trainer.model), weights(control.model))


def test_a_sweep_in_one_directory(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sweep without a directory of its own for each: all are kept, and the oldest go first where room is short."""
    monkeypatch.setitem(units.SIZES, "kB", 1000)
    for seed in range(3):
        train(out, max_steps=2, seed=seed)
    run = Run.open(out)
    assert [len(previous.checkpoints) for previous in run.previous_runs.runs] == [1, 1]
    oldest = min(run.previous, key=lambda checkpoint: checkpoint.created)
    one = run.checkpoints[0].size_bytes

    trainer = stock(out, max_steps=2, seed=3)
    keepstep.attach(trainer, budget=f"{3.4 * one / 1000:.1f}kB")
    trainer.train()

    assert oldest.run_id not in {c.run_id for c in Run.open(out).previous}
    assert [event["previous"] for event in events(out, "removed")] == [oldest.run_id]
    assert steps(out) == [2]


def unfinished(out: Path) -> str:
    try:
        managed(out, callbacks=[CrashAfter(4)])[0].train()
    except Crashed:
        return "crashed"
    return "ended"


def ended(out: Path) -> str:
    return str(train(out, max_steps=4)[0].state.global_step)


def test_in_a_new_process_an_unfinished_run_is_refused(out: Path) -> None:
    """train() without a resume, after a crash: that is a forgotten resume, whoever else has trained here before."""
    assert in_child(lambda: unfinished(out)) == (0, "crashed")

    with pytest.raises(RunInUse, match="would not resume from them"):
        train(out)

    assert steps(out) == [2, 4]


def test_in_a_new_process_a_run_that_has_ended_is_set_aside(out: Path, said: Callable[[], str]) -> None:
    """A script that is run every night: what it trained yesterday is set aside, and said."""
    assert in_child(lambda: ended(out)) == (0, "4")
    old = Run.open(out)

    train(out, max_steps=2)

    assert "it had ended" in said()
    assert steps(home_of(old, out)) == [2, 4]
    assert steps(out) == [2]


def test_in_a_new_process_auto_on_a_run_that_has_ended_trains_nothing(out: Path, said: Callable[[], str]) -> None:
    """ "auto" on a run that has ended is over at once, as ever."""
    assert in_child(lambda: ended(out)) == (0, "4")

    trainer, _ = train(out, "auto", max_steps=4)

    assert trainer.state.global_step == 4
    assert "nothing is left to train" in said()
    assert not (out / ".keepstep" / "previous").exists()


def test_a_run_that_went_on_and_was_cut_off_is_unfinished(out: Path) -> None:
    """It is the last attempt that counts."""

    def more() -> str:
        trainer, _ = managed(out, callbacks=[CrashAfter(8)])
        try:
            trainer.train(resume_from_checkpoint="auto")
        except Crashed:
            return "crashed"
        return "ended"

    assert in_child(lambda: ended(out)) == (0, "4")
    assert in_child(more) == (0, "crashed")
    with pytest.raises(RunInUse):
        train(out)


def test_the_commands_know_what_was_set_aside(out: Path) -> None:
    """`du` shows it with the command that frees it, which does."""
    train(out, max_steps=2)
    train(out, max_steps=2)

    def call(*words: str) -> str:
        command = [sys.executable, "-m", "keepstep", *words]
        environment = {**os.environ, "COLUMNS": "400"}
        return subprocess.run(command, check=True, capture_output=True, text=True, env=environment).stdout

    shown = call("du", str(out))
    assert f"a fresh start, and what lay in the way: 1 checkpoint; keepstep prune {out} --previous" in shown
    assert "1 checkpoint" in call("prune", str(out), "--dry-run")
    done = json.loads(call("prune", str(out), "--previous", "--yes", "--format", "json"))
    assert len(done["removed_aside"]) == 1 and done["removed"] == []
    assert list((out / ".keepstep" / "previous").iterdir()) == []
    assert steps(out) == [2]
