"""The best, when it is wanted, does not hold; and how sure it is where it does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from keepstep.cli.main import main as cli
from keepstep.operations.removing.pruning import plan_for, prune_as_shown
from keepstep.run import Run
from tests.failures.build import At, best, events, managed, steps, stock, train

pytestmark = pytest.mark.training

SCORES = {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.7, 10: 0.6, 12: 0.55}
RANKED = {"scores": SCORES, "metric_for_best_model": "accuracy", "load_best_model_at_end": True}
"""Step 4 is the best, step 6 the next."""


def flip(path: Path) -> None:
    """Turn one bit around, in the tensors."""
    data = bytearray(path.read_bytes())
    data[-5] ^= 1
    path.write_bytes(data)


def damage(out: Path, step: int = 10) -> At:
    """The best checkpoint's weights lose a bit while the training runs."""
    return At(step, lambda **_: flip(out / "checkpoint-4" / "model.safetensors"))


def holds(trainer: object, weights: Path) -> bool:
    """True when the model has the values of a weights file."""
    saved = load_file(weights)
    return all(torch.equal(trainer.model.state_dict()[name], value) for name, value in saved.items())  # type: ignore[attr-defined]


def test_the_next_is_loaded_and_the_end_line_says_so(out: Path, said: Callable[[], str]) -> None:
    """a damaged best at the end | loaded as it is | the next best is loaded, and said at the end and ever after."""
    trainer, checkpointer = train(out, keep="all", callbacks=[damage(out)], **RANKED)

    assert holds(trainer, out / "checkpoint-6" / "model.safetensors")
    text = said()
    assert "checkpoint-4 (generation 2): model.safetensors has other bytes than were written" in text
    assert "best checkpoint-6, eval_accuracy 0.8 of those that hold (checkpoint-4, eval_accuracy 0.9: better, " in text
    assert trainer.state.best_model_checkpoint == str(out / "checkpoint-6")
    assert best(checkpointer).step == 6
    result = CliRunner().invoke(cli, ["best", str(out)])
    assert (result.exit_code, result.stdout) == (1, f"{out / 'checkpoint-6'}\n")
    exported = CliRunner().invoke(cli, ["export", str(out), "best", str(out.with_name("model"))])
    assert exported.exit_code == 0, exported.output
    card = (out.with_name("model") / "README.md").read_text()
    assert "the best of those that hold: step 4 (0.9) ranks before by eval\\_accuracy, but was found damaged" in card


@pytest.mark.long
def test_a_damaged_best_under_stock(out: Path) -> None:
    """a damaged best at the end | loaded as it is."""
    trainer = stock(out, callbacks=[damage(out)], **RANKED)
    trainer.train()
    assert holds(trainer, out / "checkpoint-4" / "model.safetensors")


def test_what_is_kept_afterwards_is_the_next_best_too(out: Path) -> None:
    """a damaged best and a prune: the good next best does not go in its favour."""
    train(out, keep="all", callbacks=[damage(out)], **RANKED)
    run = Run.open(out)
    policy = type(run.policy).from_spec("best:1:full,latest:1", run.policy.metric)

    prune_as_shown(run, policy, plan_for(run, policy))

    assert steps(out) == [4, 6, 12]


def test_a_best_that_is_cut_while_it_trains_costs_no_other(out: Path, said: Callable[[], str]) -> None:
    """a torn best: found by its size before anything goes, by a training that keeps one best."""

    def cut(**_: object) -> None:
        (out / "checkpoint-4" / "model.safetensors").write_bytes(b"cut")

    trainer, _ = train(out, keep="best:1:full,latest:1", callbacks=[At(5, cut)], **RANKED)

    assert steps(out) == [4, 6, 12]
    assert "It stays, and takes no other one's place" in said()
    assert holds(trainer, out / "checkpoint-6" / "model.safetensors")


def test_an_evaluation_beside_the_training_is_waited_for(out: Path) -> None:
    """a late evaluator: its checkpoints stay until their values came, and then go by these."""

    def evaluate(step: int) -> Callable[..., None]:
        def record(**_: object) -> None:
            run = Run.open(out)
            run.record_metrics(run.find(step).generation, {"eval_accuracy": SCORES[step]})

        return record

    late = [At(step + 5, evaluate(step)) for step in (2, 4, 6)]
    trainer, checkpointer = managed(
        out, keep="best:1:full,latest:1,pending:6h", metric="eval_accuracy", callbacks=late, eval_strategy="no"
    )
    trainer.train()
    assert best(checkpointer).step == 4
    assert steps(out) == [4, 8, 10, 12]
    assert {event["step"] for event in events(out, "removed")} == {2, 6}


def test_a_training_without_evaluations_of_some_saves_waits_for_none(out: Path) -> None:
    """eval_steps above save_steps: what the Trainer never evaluates is not kept for that."""
    train(out, keep="best:1:full,latest:1", eval_steps=4, metric_for_best_model="accuracy", scores=SCORES)
    assert steps(out) == [4, 12]


def test_the_end_says_how_sure_the_best_is(out: Path, said: Callable[[], str]) -> None:
    """Twelve evaluations, a tie by their noise; a training with six says nothing."""
    scores = {step: 0.5 + 0.01 * (-1) ** step + step / 1000 for step in range(1, 13)}
    train(out, keep="all", eval_steps=1, scores=scores, metric_for_best_model="accuracy")
    assert "INFO: checkpoint-12 leads by 0.002; evaluations next to each other differ by" in said()
    train(out.with_name("few"), keep="all", scores=SCORES, metric_for_best_model="accuracy")
    assert "leads by" not in said()
