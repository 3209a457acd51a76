"""GRPO, between its generations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import Trainer, set_seed
from trl import DPOConfig, DPOTrainer, GRPOConfig, GRPOTrainer, RLOOConfig, RLOOTrainer

from tests.cases.parts import ARGUMENTS, llama
from tests.cases.situation import Situation
from tests.training import tiny


def variety(completions: list[Any], **_: Any) -> list[float]:
    """A reward: how many letters a completion has."""
    return [len(set(str(one))) / 10 for one in completions]


def rewarded(
    kind: type[Trainer] = GRPOTrainer, config: Any = GRPOConfig, **arguments: Any
) -> Callable[[Path], Trainer]:
    """Two completions a prompt, six steps, saved at every one."""
    settings = {
        **ARGUMENTS, "num_generations": 2, "per_device_train_batch_size": 2, "max_completion_length": 6, "max_steps": 6,
        "save_steps": 1, "eval_strategy": "no", "beta": 0.0, "bf16": False, "gradient_checkpointing": False,
        **arguments,
    }  # fmt: skip

    def build(out: Path) -> Trainer:
        set_seed(11)
        make: Any = kind
        return make(
            model=llama(), reward_funcs=variety, args=config(str(out), **settings),
            train_dataset=Dataset.from_dict({"prompt": tiny.texts(12, seed=1)}), processing_class=tiny.tokenizer(),
        )  # fmt: skip

    return build


def following(out: Path) -> Trainer:
    """DPO with a reference that is mixed with the model every second step."""
    set_seed(11)
    settings = {**ARGUMENTS, "bf16": False, "gradient_checkpointing": False, "eval_strategy": "no", "max_length": 32}
    moves = {"sync_ref_model": True, "ref_model_sync_steps": 2, "ref_model_mixup_alpha": 0.5}
    return DPOTrainer(
        model=llama(), ref_model=llama(), args=DPOConfig(str(out), **settings, **moves),
        train_dataset=tiny.preferences(18, seed=1), processing_class=tiny.tokenizer(),
    )  # fmt: skip


def situations() -> Iterator[Situation]:
    """Killed at a generation's end, and in the midst of one."""
    yield Situation("GRPO", "a generation a step", rewarded(), kill=3)
    yield Situation("GRPO, accumulating", "2 batches a step", rewarded(gradient_accumulation_steps=2), kill=3)
    twice, four = rewarded(num_iterations=2), rewarded(steps_per_generation=4)
    yield Situation("GRPO, two iterations", "a generation is trained on twice; killed between two", twice, kill=2)
    yield Situation("GRPO, in mid-iteration", "the same, killed in the midst of one", twice, kill=3)
    yield Situation("GRPO, four steps a generation", "killed between two", four, kill=4)
    yield Situation("GRPO, in mid-generation", "the same, killed in the midst of one", four, kill=5)
    leaving = rewarded(RLOOTrainer, RLOOConfig, steps_per_generation=4)
    yield Situation("RLOO, in mid-generation", "four steps a generation; killed in the midst of one", leaving, kill=3)
    yield Situation("DPO whose reference moves", "sync_ref_model, every second step", following, kill=4)


SITUATIONS = tuple(situations())
