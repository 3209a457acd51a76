"""Models that are called otherwise in their files than in memory: what was saved is what goes on, and what is the best.

Since transformers 5 a save puts the names of the hub into the files; the stock loader of a resume looks for those of
memory, and leaves what it does not find as the script built it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MixtralConfig, MixtralForCausalLM, set_seed

from tests.failures.test_adapters import (
    Kind,
    Remembering,
    crashed,
    losses,
    managed,
    state,
    trainer_of,
    undisturbed,
    unequal,
)
from tests.training.tiny import NEWEST

pytestmark = pytest.mark.training

SIZES: dict[str, Any] = {
    "vocab_size": 64, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2,
    "max_position_embeddings": 32,
}  # fmt: skip


def _renamed() -> Any:
    set_seed(1)
    return GPTNeoXForCausalLM(GPTNeoXConfig(**SIZES, hidden_dropout=0.1))


def _converted() -> Any:
    """The experts of a layer are one tensor in memory, and many in the file."""
    set_seed(1)
    return MixtralForCausalLM(MixtralConfig(**SIZES, num_key_value_heads=2, num_local_experts=4))


RENAMED, CONVERTED = Kind(_renamed), Kind(_converted)
only_since_5 = pytest.mark.skipif(not NEWEST, reason="transformers 4 saves the names of memory")


@pytest.fixture(params=["fast", "stock"])
def engine(request: pytest.FixtureRequest) -> str:
    return request.param


def test_what_is_called_otherwise_comes_back(out: Path, tmp_path: Path, engine: str) -> None:
    alone = undisturbed(RENAMED, tmp_path / "alone")
    crashed(managed(RENAMED, out, engine, eval_strategy="no")[0], 4)
    trainer, checkpointer = managed(RENAMED, out, engine, eval_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert losses(alone) == losses(trainer)
    assert checkpointer.receipt is not None and not checkpointer.receipt.reasons


def test_the_best_of_it_is_what_was_saved(out: Path, engine: str) -> None:
    memory = Remembering()
    trainer, _ = managed(RENAMED, out, engine, memory, load_best_model_at_end=True)
    trainer.train()
    assert unequal(memory.model, state(trainer.model)) == []


@only_since_5
def test_the_stock_trainer_goes_on_from_other_values(out: Path, tmp_path: Path) -> None:
    """The control."""
    alone = undisturbed(RENAMED, tmp_path / "alone")
    crashed(trainer_of(RENAMED, out), 4)
    trainer = trainer_of(RENAMED, out, eval_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) != []


@only_since_5
def test_a_checkpoint_of_stock_writers_comes_back_too(out: Path, tmp_path: Path) -> None:
    alone = undisturbed(RENAMED, tmp_path / "alone")
    crashed(trainer_of(RENAMED, out, eval_strategy="no"), 4)
    trainer, _ = managed(RENAMED, out, "fast", eval_strategy="no")
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-4"))
    assert unequal(state(alone.model), state(trainer.model)) == []


@only_since_5
def test_what_is_converted_is_named_in_the_receipt(out: Path, said: Callable[[], str], engine: str) -> None:
    """Experts that were fused in memory: the stock loader leaves them, and that is not called exact."""
    crashed(managed(CONVERTED, out, engine)[0], 4)
    trainer, checkpointer = managed(CONVERTED, out, engine, load_best_model_at_end=True)
    trainer.train(resume_from_checkpoint=True)
    assert checkpointer.receipt is not None
    reasons = [reason.text for reason in checkpointer.receipt.reasons]
    assert any("2 tensors that train are in none of its files as in memory" in text for text in reasons), reasons
    assert any("experts.gate_up_proj" in text for text in reasons)
    assert "WARNING: checkpoint-4 is loaded in part: 2 tensors that train" in said()
