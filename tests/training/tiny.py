"""Trainings so small that one takes a fraction of a second: models, tokenizer, data and trainers built in-process."""

from __future__ import annotations

import random
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
import transformers
from datasets import Dataset, disable_progress_bars
from peft import LoraConfig, get_peft_model
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    EarlyStoppingCallback,
    LlamaConfig,
    LlamaForCausalLM,
    LlamaForSequenceClassification,
    PreTrainedTokenizerFast,
    Trainer,
    TrainingArguments,
    set_seed,
)
from trl import DPOConfig, DPOTrainer, KTOConfig, KTOTrainer, RewardConfig, RewardTrainer, SFTConfig, SFTTrainer

from keepstep.transformers import ManagedTrainer

VOCABULARY = ("<pad>", "<s>", "</s>", "<unk>", *(f"w{number}" for number in range(60)))
NEWEST = int(transformers.__version__.split(".")[0]) >= 5

disable_progress_bars()


@dataclass(frozen=True)
class Recipe:
    """One training: which trainer, full or LoRA, rows of data, and the arguments that differ from the tiny ones.

    `scores` is `eval_accuracy` by step, in place of what the model would earn; `patience` adds early stopping;
    `reseed` seeds torch anew, with a number of the process, between building the trainer and `train()`;
    `streaming` gives the rows as an iterable, `masking` through a collator that masks at random ("mlm" says so),
    `transform` through a transform that does.
    """

    kind: str = "trainer"
    lora: bool = False
    rows: int = 18
    arguments: dict[str, Any] = field(default_factory=dict)
    scores: dict[int, float] | None = None
    patience: int | None = None
    reseed: bool = False
    streaming: bool = False
    masking: Literal["mlm", "own"] | None = None
    transform: bool = False
    keepstep: dict[str, Any] = field(default_factory=dict)


def by_length() -> dict[str, Any]:
    """The argument that groups rows by length, as this version of transformers calls it."""
    return {"train_sampling_strategy": "group_by_length"} if NEWEST else {"group_by_length": True}


def build(recipe: Recipe, directory: Path) -> Trainer:
    """The trainer of a recipe, as a user's script would make it."""
    set_seed(11)
    trainer = _BUILDERS[recipe.kind](recipe, directory)
    if recipe.patience is not None:
        trainer.add_callback(EarlyStoppingCallback(early_stopping_patience=recipe.patience))
    return trainer


# -- parts -----------------------------------------------------------------------------------------------


def tokenizer() -> PreTrainedTokenizerFast:
    """One word, one token; 64 of them."""
    words = Tokenizer(models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<unk>"))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )


def model(recipe: Recipe) -> Any:
    """A Llama of about 10,000 parameters with dropout in its attention; with an adapter where the recipe says so."""
    config = LlamaConfig(
        vocab_size=len(VOCABULARY), hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=64, attention_dropout=0.1, pad_token_id=0, bos_token_id=1,
        eos_token_id=2, num_labels=1,
    )  # fmt: skip
    built = LlamaForSequenceClassification(config) if recipe.kind == "reward" else LlamaForCausalLM(config)
    if recipe.lora and recipe.kind == "trainer":
        return get_peft_model(built, adapter("CAUSAL_LM"))
    return built


def adapter(task: str) -> LoraConfig:
    """A LoRA with dropout, so that a resume has random numbers to get right."""
    return LoraConfig(task_type=task, r=4, lora_alpha=8, lora_dropout=0.1, target_modules=["q_proj", "v_proj"])


def sentences(rows: int, *, seed: int, shortest: int = 3) -> list[list[int]]:
    """Token lists of 3 to 9 tokens."""
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(shortest, 10, (rows,), generator=generator).tolist()
    return [torch.randint(4, len(VOCABULARY), (length,), generator=generator).tolist() for length in lengths]


def texts(rows: int, *, seed: int) -> list[str]:
    """The same as words."""
    return [" ".join(VOCABULARY[number] for number in sentence) for sentence in sentences(rows, seed=seed)]


def pad(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """A collator: pads with 0, takes the input as its own labels, draws no random numbers."""
    longest = max(len(row["input_ids"]) for row in rows)
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": (ids != 0).long(), "labels": ids.masked_fill(ids == 0, -100)}


class Masking:
    """A collator that replaces words at random; `mlm` is what transformers' own masking collator calls it."""

    def __init__(self, mlm: bool) -> None:
        self.mlm = mlm

    def __call__(self, rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        batch = pad(rows)
        batch["input_ids"] = batch["input_ids"].masked_fill(torch.rand(batch["input_ids"].shape) < 0.15, 3)
        return batch


def replace_words(rows: dict[str, Any]) -> dict[str, Any]:
    """A transform that replaces words at random."""
    return {"input_ids": [[word if random.random() < 0.85 else 3 for word in row] for row in rows["input_ids"]]}


class ScriptedTrainer(Trainer):
    """A Trainer whose evaluations also report `eval_accuracy` as its recipe writes it."""

    scores: dict[int, float]

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_accuracy"] = self.scores[self.state.global_step]
        return output


# -- trainers --------------------------------------------------------------------------------------------


def _settings(recipe: Recipe, directory: Path) -> dict[str, Any]:
    tiny = {
        "output_dir": str(directory), "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4,
        "num_train_epochs": 3, "learning_rate": 1e-2, "warmup_steps": 2, "weight_decay": 0.01, "logging_steps": 1,
        "save_strategy": "steps", "save_steps": 4, "eval_strategy": "no", "use_cpu": True, "report_to": "none",
        "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 11,
    }  # fmt: skip
    if recipe.kind != "trainer":
        tiny |= {"bf16": False, "gradient_checkpointing": False}
    return tiny | recipe.arguments


def _plain(recipe: Recipe, directory: Path) -> Trainer:
    data = Dataset.from_dict({"input_ids": sentences(recipe.rows, seed=1)})
    if recipe.transform:
        data.set_transform(replace_words)
    parts: dict[str, Any] = {
        "model": model(recipe), "args": TrainingArguments(**_settings(recipe, directory)),
        "train_dataset": data.to_iterable_dataset() if recipe.streaming else data,
        "eval_dataset": Dataset.from_dict({"input_ids": sentences(6, seed=2)}),
        "data_collator": Masking(recipe.masking == "mlm") if recipe.masking else pad, "processing_class": tokenizer(),
    }  # fmt: skip
    if recipe.scores is None:
        return Trainer(**parts)
    trainer = ScriptedTrainer(**parts)
    trainer.scores = recipe.scores
    return trainer


def preferences(rows: int, *, seed: int) -> Dataset:
    """Prompts, each with a chosen and a rejected answer."""
    prompts, chosen, rejected = (texts(rows, seed=seed + shift) for shift in range(3))
    return Dataset.from_dict(
        {
            "prompt": prompts,
            "chosen": [f" {text}" for text in chosen],
            "rejected": [f" {text}" for text in rejected],
        }
    )


def _unpaired(rows: int, *, seed: int) -> Dataset:
    return Dataset.from_dict(
        {
            "prompt": texts(rows, seed=seed),
            "completion": [f" {text}" for text in texts(rows, seed=seed + 1)],
            "label": [number % 2 == 0 for number in range(rows)],
        }
    )


def _plain_text(rows: int, *, seed: int) -> Dataset:
    return Dataset.from_dict({"text": texts(rows, seed=seed)})


def _trl(kind: type[Trainer], config: Any, data: Any, task: str, **settings: Any) -> Any:
    def build_one(recipe: Recipe, directory: Path) -> Trainer:
        trained = model(recipe)
        # Without a hub there is nothing to load the reference model from by name; with an adapter none is needed.
        reference = {"ref_model": deepcopy(trained)} if recipe.kind in ("dpo", "kto") and not recipe.lora else {}
        return kind(
            model=trained, args=config(**{**settings, **_settings(recipe, directory)}),
            train_dataset=data(recipe.rows, seed=1), eval_dataset=data(6, seed=9), processing_class=tokenizer(),
            peft_config=adapter(task) if recipe.lora else None, **reference,
        )  # fmt: skip

    return build_one


class ManagedSFTTrainer(ManagedTrainer, SFTTrainer):
    """The explicit form, as the guide shows it."""


_BUILDERS = {
    "trainer": _plain,
    "sft": _trl(SFTTrainer, SFTConfig, _plain_text, "CAUSAL_LM", max_length=16),
    "explicit": _trl(ManagedSFTTrainer, SFTConfig, _plain_text, "CAUSAL_LM", max_length=16),
    "dpo": _trl(DPOTrainer, DPOConfig, preferences, "CAUSAL_LM", max_length=32),
    "reward": _trl(RewardTrainer, RewardConfig, preferences, "SEQ_CLS", max_length=32),
    "kto": _trl(KTOTrainer, KTOConfig, _unpaired, "CAUSAL_LM", max_length=32),
}
