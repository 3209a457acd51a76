"""Which way a metric is better: known from its name, said at the start, and the same for everyone who asks."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import EarlyStoppingCallback

from keepstep.errors import PolicyError
from tests.failures.build import At, best, managed, metric, stock, train

pytestmark = pytest.mark.training

FALLING = {2: 9.0, 4: 8.0, 6: 7.0, 8: 6.0, 10: 5.0, 12: 4.0}
RISING = {step: 10.0 - value for step, value in FALLING.items()}
LOWER = ("perplexity", "wer", "nll")


@pytest.mark.parametrize("score", LOWER)
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
def test_lower_is_better_for_early_stopping(out: Path, score: str) -> None:
    """perplexity, wer, nll as metric: EarlyStopping uses the right direction."""
    trainer, _ = train(
        out, scores=FALLING, score=score, metric_for_best_model=score, load_best_model_at_end=True,
        callbacks=[EarlyStoppingCallback(1)],
    )  # fmt: skip

    assert trainer.state.global_step == 12


@pytest.mark.parametrize("score", LOWER)
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


@pytest.mark.parametrize("given", [{}, {"metric": "vibes"}])
def test_unknown_metric_needs_a_mode(out: Path, given: dict[str, str]) -> None:
    """A name that tells no direction is refused at attach, with what to say."""
    with pytest.raises(PolicyError, match=r"vibes(.|\n)*mode='max'"):
        managed(out, metric_for_best_model=None if given else "vibes", **given)

    trainer, checkpointer = managed(out, metric_for_best_model="vibes", mode="min")
    assert metric(checkpointer).mode == "min"
    assert trainer.args.greater_is_better is False


def test_unknown_metric_with_the_direction_in_the_arguments(out: Path) -> None:
    """greater_is_better=False for a name that tells no direction is the user's word."""
    _, checkpointer = managed(out, metric_for_best_model="vibes", greater_is_better=False)

    assert metric(checkpointer).mode == "min"


def test_wrong_mode(out: Path) -> None:
    """A mode that is none is refused."""
    with pytest.raises(PolicyError, match="mode is 'up'"):
        managed(out, metric="accuracy", mode="up")
