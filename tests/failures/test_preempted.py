"""Told to stop: the step under way is finished and saved, and the resumed training is the undisturbed one."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainingArguments

import keepstep
from keepstep import Preempted, layout
from keepstep.checkpointer import HEARD, Preemption
from keepstep.checkpointer.stopping import signals
from keepstep.run import Exactness, Run
from tests.failures.build import (
    At,
    events,
    in_child,
    managed,
    names,
    receipt,
    same,
    steps,
    stock,
    train,
    unlocked,
    weights,
)

pytestmark = pytest.mark.training

ARGUMENT_NAMES = {field.name for field in fields(TrainingArguments)}
jit = pytest.mark.skipif("enable_jit_checkpoint" not in ARGUMENT_NAMES, reason="this transformers has no such setting")


def tells(step: int, event: str, number: int = signal.SIGTERM) -> At:
    """A callback that sends a signal to its own process, once: some events come several times at one step."""
    left = [number]
    return At(step, lambda **_: left and signal.raise_signal(left.pop()), event)


def attached(out: Path, options: dict[str, Any], **settings: Any) -> Any:
    """A trainer with keepstep attached by these options."""
    trainer = stock(out, **settings)
    keepstep.attach(trainer, **options)
    return trainer


def stopped(out: Path, step: int, event: str, number: int = signal.SIGTERM, **settings: Any) -> Preemption:
    """A training that is told to stop; it raises Preempted."""
    trainer, checkpointer = managed(out, callbacks=[tells(step, event, number)], **settings)
    before = [signal.getsignal(one) for one in HEARD]
    with pytest.raises(Preempted) as raised:
        trainer.train(resume_from_checkpoint="auto")
    assert [signal.getsignal(one) for one in HEARD] == before
    assert raised.value.code == 75
    assert raised.value.preemption == checkpointer.preempted
    assert unlocked(out)
    return raised.value.preemption


def losses(trainer: Any) -> list[Any]:
    """What was logged, without clocks."""
    log = trainer.state.log_history
    return [(entry["step"], entry.get("loss"), entry.get("eval_loss")) for entry in log]


Undisturbed = Callable[[str, dict[str, Any]], tuple[Any, list[Any]]]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Undisturbed:
    """What a training ends with that nobody stops, by its strategy, and what it logged."""
    made: dict[str, tuple[Any, list[Any]]] = {}

    def train_to_the_end(strategy: str, settings: dict[str, Any]) -> tuple[Any, list[Any]]:
        if strategy not in made:
            trainer, _ = train(tmp_path_factory.mktemp("whole"), **settings)
            made[strategy] = weights(trainer.model), losses(trainer)
        return made[strategy]

    return train_to_the_end


@pytest.mark.parametrize("strategy", ["steps", "epoch", "no"])
@pytest.mark.parametrize(
    ("step", "event", "stops_at"),
    [
        (2, "on_step_begin", 3), (2, "on_pre_optimizer_step", 3), (4, "on_step_end", 4),
        (4, "on_log", 4), (4, "on_evaluate", 4), (4, "on_prediction_step", 4), (4, "on_save", 4),
        (6, "on_step_end", 6), (6, "on_evaluate", 6), (6, "on_epoch_end", 6), (6, "on_epoch_begin", 7),
    ],
)  # fmt: skip
@pytest.mark.quick("steps", "on_step_begin")
def test_it_ends_with_a_saved_step_and_goes_on_exactly(
    out: Path, undisturbed: Undisturbed, *, step: int, event: str, stops_at: int, strategy: str
) -> None:
    settings: dict[str, Any] = {"save_strategy": strategy, "per_device_train_batch_size": 2, "logging_steps": 1}
    settings |= {"gradient_accumulation_steps": 2, "eval_strategy": "epoch" if strategy == "epoch" else "steps"}
    if strategy == "epoch" and step == 4 and event in ("on_evaluate", "on_prediction_step"):
        pytest.skip("there it is evaluated at the end of the epoch")
    if step == 4 and event in ("on_save", "on_log") and strategy != "steps":
        pytest.skip("there it is not saved, or not evaluated")
    final, log = undisturbed(strategy, settings)
    was = stopped(out, step, event, **settings)
    assert was == Preemption("SIGTERM", stops_at, stops_at)
    assert names(out)[-1] == f"checkpoint-{stops_at}"
    trainer, checkpointer = train(out, resume="auto", **settings)
    assert receipt(checkpointer).level is Exactness.EXACT
    assert same(weights(trainer.model), final)
    assert losses(trainer) == log


# -- who tells -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2])
def test_each_signal_is_heard(out: Path, number: int) -> None:
    assert stopped(out, 2, "on_step_begin", number) == Preemption(signal.Signals(number).name, 3, 3)


def test_a_handler_of_the_users_own_is_called_too(out: Path) -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: heard.append(number))
    try:
        stopped(out, 2, "on_step_begin", signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert heard == [signal.SIGUSR1]


def test_what_is_ignored_stays_ignored(out: Path) -> None:
    before = signal.signal(signal.SIGUSR2, signal.SIG_IGN)
    try:
        trainer, checkpointer = managed(out, callbacks=[tells(2, "on_step_begin", signal.SIGUSR2)])
        trainer.train()
    finally:
        signal.signal(signal.SIGUSR2, before)
    assert checkpointer.preempted is None


def test_it_is_said_and_the_run_is_unfinished(out: Path, said: Callable[[], str]) -> None:
    stopped(out, 2, "on_step_begin")
    go_on = 'train(resume_from_checkpoint="auto") goes on from step 3'
    assert f"told to stop (SIGTERM): the training ends at step 3, saved; {go_on}" in said()
    assert b'"ended":"stopped"' in (out / layout.METRICS).read_bytes()
    (event,) = events(out, "preempted")
    assert (event["why"], event["step"], event["resumes_at"], event["lost_steps"]) == ("SIGTERM", 3, 3, 0)


def test_return_lets_train_return_and_the_next_cell_goes_on(out: Path) -> None:
    whole, _ = train(out.with_name("whole"))
    trainer = attached(out, {"on_preempt": "return"}, callbacks=[tells(4, "on_step_begin", signal.SIGINT)])
    output = trainer.train()
    assert output.global_step == 5
    assert trainer.checkpointer.preempted == Preemption("SIGINT", 5, 5)
    trainer.train(resume_from_checkpoint="auto")
    assert trainer.checkpointer.preempted is None
    assert receipt(trainer.checkpointer).step == 5
    assert same(weights(trainer.model), weights(whole.model))


def test_ignore_leaves_the_signals_alone(out: Path) -> None:
    seen: list[Any] = []
    look = At(2, lambda **_: seen.extend(signal.getsignal(one) for one in HEARD))
    before = [signal.getsignal(one) for one in HEARD]
    attached(out, {"on_preempt": "ignore"}, callbacks=[look]).train()
    assert seen == before


def test_outside_of_the_main_thread_it_is_said_and_can_be_asked_for(out: Path, said: Callable[[], str]) -> None:
    trainer, checkpointer = managed(out)
    ended: list[BaseException] = []

    def work() -> None:
        try:
            trainer.train()
        except Preempted as error:
            ended.append(error)

    trainer.add_callback(At(2, lambda **_: checkpointer.request_stop("enough")))
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert "does not run in the main thread" in said()
    assert checkpointer.preempted == Preemption("enough", 3, 3)
    assert len(ended) == 1


def test_a_save_that_is_asked_for_is_made_and_the_training_goes_on(out: Path) -> None:
    trainer, checkpointer = managed(out, save_steps=100)
    trainer.add_callback(At(4, lambda **_: checkpointer.request_save()))
    trainer.train()
    assert steps(out) == [5, 12]


@pytest.mark.parametrize("options", [{"max_time": "1ms"}, {"stop_file": "STOP"}])
def test_limits_of_the_users_own(out: Path, options: dict[str, str]) -> None:
    trainer = attached(out, options, callbacks=[At(0, lambda **_: (out / "STOP").touch())])
    with pytest.raises(Preempted, match=next(iter(options))):
        trainer.train()
    stops_at = trainer.checkpointer.preempted.step
    assert steps(out) == [stops_at] * (stops_at > 0)
    assert stops_at == (0 if "max_time" in options else 1)


def test_a_signal_at_the_last_step_is_handed_on_once_all_is_done(out: Path) -> None:
    def work() -> str:
        managed(out, callbacks=[tells(12, "on_step_end")])[0].train()
        return "went on"

    assert in_child(work) == (-signal.SIGTERM, "")
    assert steps(out)[-1] == 12
    assert b'"ended":"finished"' in (out / layout.METRICS).read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.quick(1)
def test_a_second_signal_ends_it_at_once(out: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(signals, "ECHO", 0.0)

    def work() -> str:
        twice = At(5, lambda **_: [signal.raise_signal(number) for _ in range(2)])
        managed(out, callbacks=[twice])[0].train()
        return "went on"

    assert in_child(work) == (-number, "")
    assert steps(out) == [2, 4]
    assert receipt(train(out, "auto")[1]).step == 4


def test_a_sigterm_that_comes_by_two_ways_is_one(out: Path) -> None:
    """A scheduler tells every process of a job, and a launcher hands on what it was told."""
    twice = At(5, lambda **_: [signal.raise_signal(signal.SIGTERM) for _ in range(2)])
    with pytest.raises(Preempted):
        managed(out, callbacks=[twice])[0].train()
    assert steps(out)[-1] == 6, "the step under way"


def test_a_forked_child_ends_by_a_signal_as_ever(out: Path) -> None:
    """Data loader workers are ended by SIGTERM, and hear Ctrl-C beside their parent."""
    codes: list[int] = []

    def fork(**_: Any) -> None:
        child = os.fork()
        if child == 0:
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGTERM)
            os._exit(1)
        codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))

    trainer, checkpointer = managed(out, callbacks=[At(2, fork)])
    trainer.train()
    assert codes == [-signal.SIGTERM]
    assert checkpointer.preempted is None


def test_what_is_told_while_it_loads_does_not_begin(out: Path) -> None:
    train(out, max_steps=4)
    assert stopped(out, 4, "on_train_begin", max_steps=12) == Preemption("SIGTERM", 4, 4)
    assert steps(out) == [2, 4]


# -- the time there is -----------------------------------------------------------------------------------------


def slow_saves(trainer: Any, seconds: float) -> None:
    """Let the run's own events say that a save takes so long."""
    run = trainer.checkpointer.run
    run.events.append("kept", generation=1, durable_seconds=seconds)


def test_a_save_that_does_not_fit_is_not_begun_and_what_is_lost_is_said(out: Path, said: Callable[[], str]) -> None:
    trainer = attached(out, {"preempt_deadline": "20s"}, callbacks=[tells(6, "on_step_begin")], save_steps=4)
    trainer.add_callback(At(6, lambda **_: slow_saves(trainer, 60.0)))
    with pytest.raises(Preempted):
        trainer.train()
    was = trainer.checkpointer.preempted
    assert (was.step, was.resumes_at, was.lost_steps) == (7, 4, 3)
    assert steps(out) == [4]
    assert "3 steps (" in said()


def test_an_evaluation_that_would_outlast_the_time_is_cut_short(out: Path, said: Callable[[], str]) -> None:
    whole, _ = train(out.with_name("whole"))
    tell = tells(4, "on_prediction_step")
    trainer = attached(out, {"preempt_deadline": "20s"}, callbacks=[tell], per_device_eval_batch_size=1)
    trainer.add_callback(At(4, lambda **_: slow_saves(trainer, 19.0), "on_step_end"))
    with pytest.raises(Preempted):
        trainer.train()
    assert "the evaluation of step 4 is cut short" in said()
    assert steps(out) == [2, 4]
    assert "eval_loss" not in Run.open(out).checkpoints[-1].metrics
    assert same(weights(train(out, "auto", per_device_eval_batch_size=1)[0].model), weights(whole.model))


# -- transformers' own mechanism -------------------------------------------------------------------------------


@jit
@pytest.mark.parametrize("on_preempt", ["exit", "ignore"])
def test_jit_means_this(out: Path, on_preempt: str, said: Callable[[], str]) -> None:
    def work() -> str:
        trainer = attached(
            out, {"on_preempt": on_preempt}, callbacks=[tells(2, "on_step_begin")], enable_jit_checkpoint=True
        )
        ended = "returned"
        try:
            trainer.train()
        except Preempted:
            ended = "raised"
        return json.dumps([ended, signal.getsignal(signal.SIGTERM) == signal.SIG_DFL])

    code, text = in_child(work)
    assert (code, json.loads(text)) == (0, ["raised" if on_preempt == "exit" else "returned", True])
    assert steps(out) == [2, 3]


@jit
def test_outside_of_a_managed_training_the_stock_callback_does_as_ever(out: Path) -> None:
    trainer, _ = managed(out, enable_jit_checkpoint=True)
    saved: list[int] = []
    trainer._save_checkpoint = lambda *_, **__: saved.append(trainer.state.global_step)  # type: ignore[method-assign]
    (found,) = [c for c in trainer.callback_handler.callbacks if type(c).__name__ == "JITCheckpointCallback"]
    found.jit_manager.is_checkpoint_requested = True
    trainer.callback_handler.on_step_begin(trainer.args, trainer.state, trainer.control)
    assert trainer.control.should_training_stop
    assert saved == [0]
