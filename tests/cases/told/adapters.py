"""Adapters."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import (
    AdaLoraConfig,
    IA3Config,
    LoraConfig,
    OFTConfig,
    PeftConfig,
    PeftModel,
    PrefixTuningConfig,
    PromptEncoderConfig,
    PromptTuningConfig,
    VeraConfig,
)
from transformers import Trainer, TrainerCallback, set_seed
from trl import DPOConfig, DPOTrainer

from tests.cases.facts import Facts, digest
from tests.cases.parts import (
    ARGUMENTS,
    BEST_AT_END,
    BY_LOSS,
    SCORES,
    Remembers,
    Scored,
    adapted,
    llama,
    trainer,
    weights_of_step,
)
from tests.cases.situation import Situation
from tests.training import tiny

TASK: dict[str, Any] = {"task_type": "CAUSAL_LM"}
LORA: dict[str, Any] = {**TASK, "r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}
ADALORA: dict[str, Any] = {
    **TASK, "init_r": 6, "target_r": 2, "tinit": 1, "tfinal": 2, "deltaT": 1, "total_step": 10, "lora_alpha": 8,
    "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"],
}  # fmt: skip


def learning(config: Callable[[], PeftConfig], **arguments: Any) -> Callable[[Path], Trainer]:
    """The small trainer with an adapter."""
    return lambda out: trainer(out, model=adapted(config()), **arguments)


def best_of(config: Callable[[], PeftConfig]) -> Callable[[Path], Trainer]:
    """The same with a score that is best at step 4, loaded at the end."""
    return lambda out: trainer(out, Scored, model=adapted(config()), callbacks=[Remembers()], **BEST_AT_END)


PROMPTS: dict[str, Callable[[], PeftConfig]] = {
    "prompt tuning": lambda: PromptTuningConfig(**TASK, num_virtual_tokens=4),
    "prefix tuning": lambda: PrefixTuningConfig(**TASK, num_virtual_tokens=4),
    "prefix tuning with projection": lambda: PrefixTuningConfig(
        **TASK, num_virtual_tokens=4, prefix_projection=True, encoder_hidden_size=16
    ),
    "p-tuning": lambda: PromptEncoderConfig(**TASK, num_virtual_tokens=4, encoder_hidden_size=16),
}
OTHERS: dict[str, Callable[[], PeftConfig]] = {
    "VeRA": lambda: VeraConfig(**TASK, r=4, target_modules=["q_proj"], vera_dropout=0.1),
    "IA3": lambda: IA3Config(**TASK, target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"]),
    "OFT": lambda: OFTConfig(**TASK, target_modules=["q_proj"], oft_block_size=4, r=0),
    "an adapter of another rank per layer": lambda: LoraConfig(**LORA, rank_pattern={"q_proj": 2}),
}


# -- several adapters ------------------------------------------------------------------------------------


def scattered(model: Any) -> Any:
    """The model with adapters that already do something."""
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            parameter.data.copy_(torch.randn(parameter.shape, generator=generator) * 0.05)
    return model


def two_trained(out: Path, kind: type[Trainer] = Trainer, **arguments: Any) -> Trainer:
    """Two adapters, neither called default, both active and trained."""
    model = scattered(adapted(LoraConfig(**LORA), name="one"))
    torch.manual_seed(2)
    model.add_adapter("two", LoraConfig(**LORA))
    model.base_model.set_adapter(["one", "two"])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_("lora_" in name)
    return trainer(out, kind, model=model, **arguments)


def of_another_name(out: Path) -> Trainer:
    return trainer(out, Scored, model=adapted(LoraConfig(**LORA), name="mine"), callbacks=[Remembers()], **BEST_AT_END)


def preferring(out: Path, best: bool = False) -> Trainer:
    """DPO that goes on from a trained adapter: TRL adds a second one, which stays as it was."""
    trained = scattered(adapted(LoraConfig(**LORA)))
    arguments = {**ARGUMENTS, "bf16": False, "gradient_checkpointing": False, **(BEST_AT_END if best else {})}
    set_seed(11)
    return ScoredDPO(
        model=trained, args=DPOConfig(str(out), max_length=32, **arguments), train_dataset=tiny.preferences(18, seed=1),
        eval_dataset=tiny.preferences(6, seed=9), processing_class=tiny.tokenizer(), callbacks=[Remembers()],
    )  # fmt: skip


class ScoredDPO(DPOTrainer):
    """A DPO whose evaluations also find `eval_accuracy`."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_accuracy"] = SCORES[self.state.global_step]
        return output


def each_adapter(trainer: Trainer) -> Facts:
    """The digest of every adapter's weights, by its name."""
    named = list(trainer.model.named_parameters())
    return {
        "adapters": {
            adapter: digest({name: parameter for name, parameter in named if f".{adapter}." in name})
            for adapter in trainer.model.peft_config
        }
    }


# -- embeddings, ranks, and adapters that come from a checkpoint -----------------------------------------


def resized(**settings: Any) -> Callable[[Path], Trainer]:
    """Tied embeddings, made longer; an adapter with these settings; the best at the end."""

    def build(out: Path) -> Trainer:
        base = llama(tied=True)
        base.resize_token_embeddings(70)
        model = adapted(LoraConfig(**{**LORA, **settings}), base)
        return trainer(out, model=model, load_best_model_at_end=True, **BY_LOSS)

    return build


class Allocates(TrainerCallback):
    """Lets AdaLoRA move its ranks, as its documentation has a training loop do it."""

    def on_optimizer_step(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.base_model.update_and_allocate(state.global_step)


def moving_ranks(kind: type[Trainer] = Trainer, **arguments: Any) -> Callable[[Path], Trainer]:
    return lambda out: trainer(out, kind, model=adapted(AdaLoraConfig(**ADALORA)), callbacks=[Allocates()], **arguments)


def with_embeddings(out: Path) -> Trainer:
    return trainer(out, model=adapted(LoraConfig(**LORA, modules_to_save=["embed_tokens", "lm_head"])))


def from_checkpoint(frozen: bool) -> Callable[[Path], Trainer]:
    """The second start makes its model of the newest checkpoint's adapter."""

    def build(out: Path) -> Trainer:
        model = PeftModel.from_pretrained(llama(), out / "checkpoint-4", is_trainable=True)
        for name, parameter in model.named_parameters():
            if frozen and "modules_to_save" in name:
                parameter.requires_grad_(False)
        return trainer(out, model=model)

    return build


AT_4 = {"best step": 4, "weights are of step": [4]}
SITUATIONS = (
    *(Situation(name, "resumed", learning(config)) for name, config in PROMPTS.items()),
    *(
        Situation(
            f"{name}, the best at the end",
            "load_best_model_at_end",
            best_of(config),
            kill=6,
            also=weights_of_step,
            wants=AT_4,
        )
        for name, config in PROMPTS.items()
    ),
    Situation(
        "an adapter of another name",
        "called mine; the best at the end",
        of_another_name,
        kill=6,
        also=weights_of_step,
        wants=AT_4,
    ),
    Situation(
        "two adapters, one trained",
        "DPO goes on from an adapter, beside a frozen copy of it",
        preferring,
        also=each_adapter,
    ),
    Situation(
        "two adapters, one trained, the best at the end",
        "the same with load_best_model_at_end",
        lambda out: preferring(out, best=True),
        kill=6,
        also=weights_of_step,
        wants=AT_4,
    ),
    Situation(
        "two adapters, both trained", "two active adapters, neither called default", two_trained, also=each_adapter
    ),
    Situation(
        "two adapters, both trained, the best at the end",
        "the same with load_best_model_at_end",
        lambda out: two_trained(out, Scored, callbacks=[Remembers()], **BEST_AT_END),
        kill=None,
        also=weights_of_step,
        wants=AT_4,
    ),
    Situation("tied embeddings, resized", "with an adapter beside them", resized()),
    Situation(
        "tied embeddings, both trained",
        "modules_to_save names both ends",
        resized(modules_to_save=["embed_tokens", "lm_head"]),
    ),
    Situation(
        "tied embeddings that stay tied",
        "modules_to_save with ensure_weight_tying",
        resized(modules_to_save=["embed_tokens"], ensure_weight_tying=True),
    ),
    Situation(
        "tied embeddings, four tokens trained",
        "trainable_token_indices",
        resized(trainable_token_indices={"embed_tokens": [64, 65, 66, 67]}),
    ),
    Situation("DoRA with every bias", "use_dora, bias=all", resized(use_dora=True, bias="all")),
    Situation("AdaLoRA", "its ranks move while it trains", moving_ranks()),
    Situation(
        "AdaLoRA, the best at the end",
        "with load_best_model_at_end",
        moving_ranks(Scored, **BEST_AT_END),
        kill=None,
        wants={"best step": 4},
    ),
    *(Situation(name, "resumed", learning(config)) for name, config in OTHERS.items()),
    Situation(
        "LoRA from a checkpoint",
        "the second start loads the checkpoint's adapter as its model",
        with_embeddings,
        again=from_checkpoint(frozen=False),
    ),
    Situation(
        "LoRA from a checkpoint, partly frozen",
        "the same, and what modules_to_save named is frozen there",
        with_embeddings,
        again=from_checkpoint(frozen=True),
    ),
)
