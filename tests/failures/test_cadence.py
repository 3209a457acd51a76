"""Saves by the clock, by a share of the steps, and at whatever step a training ends."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

import keepstep
from tests.engine import chosen
from tests.failures.build import At, crash, managed, steps, stock, train

pytestmark = pytest.mark.training


class Hand:
    """A clock that goes on by a minute at each step."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


class Minute(TrainerCallback):
    def __init__(self, hand: Hand) -> None:
        self.hand = hand

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.hand.now += 60


def by_the_clock(out: Path, every: str, **arguments: Any) -> keepstep.Checkpointer:
    hand = Hand()
    arguments["eval_strategy"] = "no"  # a new best would be saved as well
    trainer = stock(out, callbacks=[*arguments.pop("callbacks", ()), Minute(hand)], **arguments)
    checkpointer = keepstep.attach(trainer, keep="all", save_every=every, **chosen())
    checkpointer.cadence.clock = hand
    trainer.train()
    return checkpointer


def test_saves_by_the_clock_alone(out: Path, said: Callable[[], str]) -> None:
    """Every fifth minute, and the last step."""
    by_the_clock(out, "5m", save_strategy="no")
    assert steps(out) == [5, 10, 12]
    assert "a save every 5 min and at the end" in said()


def test_saves_by_the_clock_beside_steps(out: Path, said: Callable[[], str]) -> None:
    """Each save begins the count anew: where steps come often enough, the clock asks for nothing."""
    by_the_clock(out, "3m", save_steps=4)
    assert steps(out) == [3, 4, 7, 8, 11, 12]
    by_the_clock(out.with_name("often"), "3m", save_steps=2)
    assert steps(out.with_name("often")) == [2, 4, 6, 8, 10, 12]


def test_a_share_of_the_steps(out: Path) -> None:
    """`save_steps=0.3` of 12 steps is every 4; also after a resume."""
    crash(out, after=8, save_steps=0.3, keep="all", eval_strategy="no")
    train(out, "auto", save_steps=0.3, keep="all", eval_strategy="no")
    assert steps(out) == [4, 8, 12]


class StopAt(TrainerCallback):
    def __init__(self, step: int, event: str) -> None:
        self.step = step
        setattr(self, event, self.stop)

    def stop(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            control.should_training_stop = True


def test_a_save_that_is_asked_for_at_the_last_step_is_made_once(out: Path) -> None:
    trainer, _ = managed(out, keep="all", save_steps=4, eval_strategy="no")
    trainer.train()
    committed = [e["step"] for e in keepstep.open_run(out).events.read() if e["event"] == "committed"]
    assert committed == [4, 8, 12]


def test_what_is_managed_is_said(out: Path) -> None:
    """`print(ckpt)` before, in and after a training."""
    seen: list[str] = []
    trainer, checkpointer = managed(
        out, keep="best:1,latest:2", callbacks=[At(6, lambda **_: seen.append(str(checkpointer)))]
    )
    assert "no checkpoint yet" in repr(checkpointer)
    with checkpointer as same:
        assert same is checkpointer
        trainer.train()
    assert "(training)" in seen[0]
    assert str(out) in str(checkpointer)
    assert "newest step 12 (not training)" in str(checkpointer)
    assert "metric eval_loss (lower is better)" in repr(checkpointer)


def test_a_bad_interval_is_named_at_attach(out: Path) -> None:
    with pytest.raises(keepstep.KeepstepError, match="save_every"):
        keepstep.attach(stock(out), save_every="20")
