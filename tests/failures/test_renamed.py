"""Models that are called otherwise in their files than in memory: what was saved is what goes on, and what is the best.

Since transformers 5 a save puts the names of the hub into the files; the stock loader of a resume looks for those of
memory, and leaves what it does not find as the script built it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM, MixtralConfig, MixtralForCausalLM, set_seed

from keepstep.integrations.transformers.resuming import converted
from tests.failures.kinds import (
    Kind,
    check_best,
    check_resume,
    crashed,
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
KINDS = {"renamed": RENAMED, "converted": CONVERTED}
only_since_5 = pytest.mark.skipif(not NEWEST, reason="transformers 4 saves the names of memory")


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.quick("converted")
def test_what_is_called_otherwise_comes_back(out: Path, tmp_path: Path, engine: str, name: str) -> None:
    check_resume(KINDS[name], tmp_path, out, engine)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.quick("converted")
def test_the_best_of_it_is_what_was_saved(out: Path, engine: str, name: str) -> None:
    check_best(KINDS[name], out, engine)


@only_since_5
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.long
def test_the_stock_trainer_goes_on_from_other_values(out: Path, tmp_path: Path, name: str) -> None:
    """The control."""
    alone = undisturbed(KINDS[name], tmp_path / "alone")
    crashed(trainer_of(KINDS[name], out), 4)
    trainer = trainer_of(KINDS[name], out, eval_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) != []


@only_since_5
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.quick("converted")
def test_a_checkpoint_of_stock_writers_comes_back_too(out: Path, tmp_path: Path, name: str) -> None:
    alone = undisturbed(KINDS[name], tmp_path / "alone")
    crashed(trainer_of(KINDS[name], out, eval_strategy="no"), 4)
    trainer, _ = managed(KINDS[name], out, "fast", eval_strategy="no")
    trainer.train(resume_from_checkpoint=str(out / "checkpoint-4"))
    assert unequal(state(alone.model), state(trainer.model)) == []


@only_since_5
def test_without_the_library_s_converter_a_second_model_is_read(
    out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The converter is no public function: where it is gone, `from_pretrained` gives the same, for more memory."""
    alone = undisturbed(CONVERTED, tmp_path / "alone")
    crashed(managed(CONVERTED, out, "fast", eval_strategy="no")[0], 4)
    monkeypatch.setattr(converted, "core", None)
    trainer, checkpointer = managed(CONVERTED, out, "fast", eval_strategy="no")
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert checkpointer.receipt is not None and not checkpointer.receipt.reasons


@only_since_5
def test_the_model_saves_as_before_once_it_was_converted(out: Path) -> None:
    crashed(managed(CONVERTED, out, "fast", eval_strategy="no")[0], 4)
    trainer, _ = managed(CONVERTED, out, "fast", eval_strategy="no")
    before = {key: value.shape for key, value in load_file(out / "checkpoint-4" / "model.safetensors").items()}
    trainer.train(resume_from_checkpoint=True)
    after = {key: value.shape for key, value in load_file(out / "checkpoint-8" / "model.safetensors").items()}
    assert before == after
