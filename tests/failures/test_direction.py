"""Which way a metric is better: known from its name, said at the start, and the same for everyone who asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import EarlyStoppingCallback

import keepstep
from keepstep.errors import PolicyError
from tests.failures.build import At, best, managed, metric, names, stock, train

pytestmark = pytest.mark.training

FALLING = {2: 9.0, 4: 8.0, 6: 7.0, 8: 6.0, 10: 5.0, 12: 4.0}
RISING = {step: 10.0 - value for step, value in FALLING.items()}
LOWER = ("perplexity", "wer", "nll")


@pytest.mark.parametrize("score", LOWER)
@pytest.mark.quick(1)
def test_lower_is_better(out: Path, said: Callable[[], str], score: str) -> None:
    """perplexity, wer, nll as metric | taken as greater-is-better | metric table, direction said at start."""
    before: list[str] = []

    trainer, checkpointer = train(
        out, scores=FALLING, score=score, metric_for_best_model=score, save_total_limit=1,
        load_best_model_at_end=True, callbacks=[At(0, lambda **_: before.append(said()))],
    )  # fmt: skip

    assert f"metric eval_{score} (lower is better)" in before[0]
    assert "transformers alone would have taken it the other way round" in before[0]
    assert best(checkpointer).step == 12
    assert trainer.state.best_metric == 4.0


@pytest.mark.parametrize("score", LOWER)
@pytest.mark.quick(1)
def test_lower_is_better_for_early_stopping(out: Path, score: str) -> None:
    """perplexity, wer, nll as metric: EarlyStopping uses the right direction."""
    trainer, _ = train(
        out, scores=FALLING, score=score, metric_for_best_model=score, load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip

    assert trainer.state.global_step == 12


@pytest.mark.parametrize("score", LOWER)
@pytest.mark.long
def test_lower_is_better_under_stock(out: Path, score: str) -> None:
    """perplexity, wer, nll as metric | taken as greater-is-better."""
    trainer = stock(
        out, scores=FALLING, score=score, metric_for_best_model=score, load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip
    trainer.train()

    assert trainer.state.global_step == 4, "stopped in the middle of getting better"


def test_the_user_turns_a_metric_around(out: Path, said: Callable[[], str]) -> None:
    """A direction that the user gives against the name wins, and that is said."""
    trainer, checkpointer = train(
        out, scores=RISING, score="wer", metric="wer", mode="max", metric_for_best_model="wer", save_total_limit=1
    )

    assert best(checkpointer).step == 12
    assert trainer.args.greater_is_better is True
    text = said()
    assert "metric eval_wer (higher is better)" in text
    assert "WARNING: eval_wer: higher is better, as you say, which is the other way round than usual" in text


def test_a_loss_that_the_user_turns_around(out: Path, said: Callable[[], str]) -> None:
    """greater_is_better=True for a loss can be nobody's guess: it is taken as the user says."""
    _, checkpointer = managed(out, metric_for_best_model="eval_loss", greater_is_better=True)

    assert metric(checkpointer).mode == "max"


def test_a_direction_against_the_name_that_the_user_gives(out: Path, said: Callable[[], str]) -> None:
    """What can be nobody's guess counts, whatever the table says; one line says that both differ."""
    _, checkpointer = managed(out, metric_for_best_model="accuracy", greater_is_better=False)

    assert metric(checkpointer).mode == "min"
    assert said().count("eval_accuracy: lower is better, as you say, which is the other way round than usual") == 1


def test_a_direction_that_may_be_a_guess_names_the_way_to_turn_it(out: Path, said: Callable[[], str]) -> None:
    """The arguments put transformers' guess where none was given: the table wins over it, and says how to win back."""
    _, checkpointer = managed(out, metric_for_best_model="wer", greater_is_better=True)

    assert metric(checkpointer).mode == "min"
    assert "the other way round (attach(mode='max') does, where that is meant)" in said()


@pytest.mark.parametrize(
    ("arguments", "mode"),
    [
        ({}, "max"),
        ({"greater_is_better": True}, "max"),
        ({"greater_is_better": False}, "min"),
    ],
)
@pytest.mark.quick(2)
def test_an_unknown_metric_goes_the_trainers_way(
    out: Path, tmp_path: Path, said: Callable[[], str], arguments: dict[str, bool], mode: str
) -> None:
    """A script that runs with the stock Trainer runs: its own direction is taken, and said where it may be a guess."""
    settings: dict[str, Any] = {
        "scores": RISING, "score": "vibes", "metric_for_best_model": "vibes", "load_best_model_at_end": True,
        **arguments,
    }  # fmt: skip
    control = stock(tmp_path / "stock", **settings)
    control.train()

    trainer, checkpointer = train(out, **settings)

    assert metric(checkpointer).mode == mode
    assert best(checkpointer).step == control.state.best_global_step
    assert trainer.state.best_metric == control.state.best_metric
    told = said().count("eval_vibes: higher is better, as the Trainer takes it; the name tells nothing")
    assert told == (mode == "max")


def test_a_metric_that_is_named_later_is_no_error(out: Path) -> None:
    """Without a guess in greater_is_better, the Trainer takes the lower."""
    trainer = stock(out)
    trainer.args.metric_for_best_model = "vibes"
    assert metric(keepstep.attach(trainer)).mode == "min"


def test_a_metric_that_attach_names_needs_a_mode(out: Path) -> None:
    """Nobody else says its direction; where the Trainer goes by the same, it does."""
    with pytest.raises(PolicyError, match=r"vibes(.|\n)*mode='max'"):
        managed(out, metric="vibes")

    for settings in ({"metric": "vibes", "mode": "min"}, {"metric": "eval_vibes", "greater_is_better": False}):
        _, checkpointer = managed(out, metric_for_best_model="vibes", **settings)
        assert metric(checkpointer).mode == "min"


def test_a_mode_against_the_trainers_turns_early_stopping_with_it(out: Path) -> None:
    trainer, checkpointer = train(
        out, scores=FALLING, score="vibes", metric_for_best_model="vibes", mode="min", load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip
    assert trainer.state.global_step == 12 == best(checkpointer).step


def test_the_arguments_are_the_users_again(out: Path) -> None:
    """Only while a training runs do they hold the direction for callbacks; a checkpoint has the user's."""
    seen: list[Any] = []
    settings: dict[str, Any] = {
        "scores": FALLING, "score": "wer", "metric_for_best_model": "wer",
        "callbacks": [At(4, lambda **_: seen.append(trainer.args.greater_is_better))],
    }  # fmt: skip
    trainer, checkpointer = managed(out, **settings)
    assert trainer.args.greater_is_better is True, "as transformers guesses"
    trainer.train()

    assert seen == [False]
    assert trainer.args.greater_is_better is True
    saved = torch.load(best(checkpointer).path / "training_args.bin", weights_only=False)
    assert saved.greater_is_better is True


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_that_is_none(out: Path, limit: int) -> None:
    """The stock Trainer takes a limit below 1 as no limit."""
    train(out, save_total_limit=limit)
    assert len(names(out)) == 6


def test_wrong_mode(out: Path) -> None:
    """A mode that is none is refused."""
    with pytest.raises(PolicyError, match="mode is 'up'"):
        managed(out, metric="accuracy", mode="up")
