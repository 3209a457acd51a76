"""Trainings whose checkpoints are compared with what was planned for them from the config alone."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Trainer,
    TrainingArguments,
    set_seed,
)

import keepstep
from tests.training.tiny import pad, sentences, tokenizer

STEPS = 2


@dataclass(frozen=True)
class Combination:
    """A model, an optimizer and a way of training it, as the planner and as a script would be told."""

    model: str
    optimizer: str = "adamw_torch"
    dtype: str = "fp32"
    rank: int | None = None
    targets: tuple[str, ...] = ()
    modules_to_save: tuple[str, ...] = ()
    planned_as: str | None = None
    build_optimizer: Callable[[Any], torch.optim.Optimizer] | None = field(default=None, compare=False)

    @property
    def label(self) -> str:
        """For people."""
        lora = f"LoRA r={self.rank}" + (f" {','.join(self.targets)}" if self.targets else "") if self.rank else "full"
        lora += f" + {','.join(self.modules_to_save)}" if self.modules_to_save else ""
        return f"{self.model} {self.dtype} {lora} {self.planned_as or self.optimizer}"


def config_of(model: str) -> Any:
    """A few million parameters each: large enough that the weights outweigh the small files."""
    wide = {"vocab_size": 4096, "hidden_size": 192, "num_hidden_layers": 4, "num_attention_heads": 4}
    wide |= {"intermediate_size": 512, "max_position_embeddings": 64, "pad_token_id": 0, "num_key_value_heads": 2}
    if model == "llama":
        return LlamaConfig(**wide, architectures=["LlamaForCausalLM"])
    if model == "qwen2":
        return Qwen2Config(**wide, tie_word_embeddings=True, architectures=["Qwen2ForCausalLM"])
    return GPT2Config(
        vocab_size=4096, n_embd=192, n_layer=4, n_head=4, n_positions=64, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, architectures=["GPT2LMHeadModel"],
    )  # fmt: skip


def train(combination: Combination, directory: Path) -> Path:
    """Train two steps with an attached trainer; the path of the last checkpoint, stock files and all."""
    set_seed(3)
    config = config_of(combination.model)
    kind = {"llama": LlamaForCausalLM, "qwen2": Qwen2ForCausalLM, "gpt2": GPT2LMHeadModel}[combination.model]
    model: Any = kind(config).to({"fp32": torch.float32, "bf16": torch.bfloat16}[combination.dtype])
    if combination.rank:
        targets = combination.targets[0] if len(combination.targets) == 1 else list(combination.targets) or None
        adapter = LoraConfig(
            task_type="CAUSAL_LM",
            r=combination.rank,
            target_modules=targets,
            modules_to_save=list(combination.modules_to_save) or None,
        )
        model = get_peft_model(model, adapter)
    arguments = TrainingArguments(
        str(directory), per_device_train_batch_size=2, max_steps=STEPS, save_strategy="steps", save_steps=STEPS,
        eval_strategy="no", use_cpu=True, report_to="none", disable_tqdm=True, dataloader_pin_memory=False,
        optim=combination.optimizer, logging_steps=10,
    )  # fmt: skip
    own = combination.build_optimizer
    trainer = Trainer(
        model=model, args=arguments, train_dataset=Dataset.from_dict({"input_ids": sentences(8, seed=1)}),
        data_collator=pad, processing_class=tokenizer(), optimizers=(own(model) if own else None, None),
    )  # fmt: skip
    ckpt = keepstep.attach(trainer, keep="latest:1")
    trainer.train()
    (checkpoint,) = ckpt.run.checkpoints
    assert checkpoint.path is not None
    return checkpoint.path
