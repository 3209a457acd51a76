"""The size that a start line tells, beside what the first checkpoint takes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from accelerate.state import AcceleratorState
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments

import keepstep
from keepstep.integrations.transformers.saving.size import Size, size_of
from tests.training.tiny import Recipe, adapter, build, tokenizer

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),  # PEFT asks for it
    pytest.mark.filterwarnings("ignore:Could not find a config file in:UserWarning"),  # PEFT before 0.19
    pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning"),  # the same
]


def _model(**config: Any) -> Any:
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=2_000, max_position_embeddings=64, **shape | config))


def _tied() -> Any:
    return _model(tie_word_embeddings=True)


def _buffered() -> Any:
    built = _model()
    built.register_buffer("counts", torch.zeros(40_000, dtype=torch.int64))
    built.register_buffer("scratch", torch.zeros(90_000), persistent=False)
    return built


def _lora() -> Any:
    from peft import get_peft_model

    return get_peft_model(_model(), adapter("CAUSAL_LM"))


def _two_adapters() -> Any:
    built = _lora()
    built.add_adapter("other", adapter("CAUSAL_LM"))
    return built


def _whole_head_beside_the_adapter() -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], modules_to_save=["lm_head"])
    return get_peft_model(_model(), config)


def _own_adam(model: Any) -> Any:
    return torch.optim.Adam(model.parameters(), lr=1e-3)


def _sgd_with_momentum(model: Any) -> Any:
    return torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)


KINDS: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "full": (_model, {}),
    "tied weights": (_tied, {}),
    "buffers": (_buffered, {}),
    "LoRA": (_lora, {}),
    "two adapters, one trained": (_two_adapters, {}),
    "a whole head beside an adapter": (_whole_head_beside_the_adapter, {}),
    "bf16 mixed": (_model, {"bf16": True}),
    "bf16 weights": (lambda: _model().to(torch.bfloat16), {}),
    "SGD": (_model, {"optim": "sgd"}),
    "Adafactor": (_model, {"optim": "adafactor"}),
    "weights only": (_model, {"save_only_model": True}),
    "weights only of an adapter": (_lora, {"save_only_model": True}),
    "an optimizer of one's own": (_model, {"optimizers": _own_adam}),
    "momentum": (_model, {"optimizers": _sgd_with_momentum}),
    "a large tokenizer": (_model, {"words": 20_000}),
}


RESUMING = {"optimizer.pt", "scheduler.pt", "rng_state.pth", "keepstep_state.json"}
"""What a thinned checkpoint has no more."""


def _large_tokenizer(words: int) -> Any:
    built = tokenizer()
    built.add_tokens([f"word{number}" for number in range(words)])
    return built


@pytest.fixture(autouse=True)
def _to_itself(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What one asks of mixed precision is for it alone: transformers 4 puts it into the environment."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_checkpoint_takes_what_was_told(kind: str, tmp_path: Path) -> None:
    make, given = KINDS[kind]
    arguments = {
        "max_steps": 1,
        "save_steps": 1,
        "per_device_train_batch_size": 1,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    arguments |= {name: value for name, value in given.items() if name not in {"optimizers", "words"}}
    torch.manual_seed(3)
    model = make()
    own = {"optimizers": (given["optimizers"](model), None)} if "optimizers" in given else {}
    trainer = Trainer(
        model=model,
        args=TrainingArguments(str(tmp_path / "run"), report_to="none", **arguments),
        train_dataset=[{"input_ids": [5, 6, 7], "labels": [5, 6, 7]}] * 2,
        processing_class=_large_tokenizer(given.get("words", 1)),
        **own,
    )
    told: list[Size] = []

    class Asks(TrainerCallback):
        def on_train_begin(self, *_: Any, **__: Any) -> None:
            told.append(size_of(trainer))

    trainer.add_callback(Asks())
    keepstep.attach(trainer, keep="all")
    trainer.train()
    (checkpoint,) = keepstep.Run.open(tmp_path / "run").checkpoints
    assert told[0].whole == pytest.approx(checkpoint.size_bytes, rel=0.05)
    assert told[0].at_least <= checkpoint.size_bytes
    stays = sum(f.size for f in checkpoint.files if f.path not in RESUMING)
    assert told[0].weights == pytest.approx(stays, rel=0.05)


def test_what_nobody_knows_of_an_optimizer_is_not_certain(tmp_path: Path) -> None:
    class Unheard(torch.optim.SGD): ...

    trainer = build(Recipe(), tmp_path)
    trainer.optimizer = Unheard(trainer.model.parameters(), lr=0.1)
    size = size_of(trainer)
    trainer.optimizer = torch.optim.SGD(trainer.model.parameters(), lr=0.1)
    assert size.at_least <= size_of(trainer).whole < size.whole, "it may keep nothing, and most keep two moments"
