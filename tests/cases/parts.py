"""What the situations are put together from: a small model, its rows, and a plain Trainer around them."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from peft import PeftConfig, get_peft_model
from transformers import Trainer, TrainerCallback, TrainingArguments, set_seed

from tests.cases.facts import Facts, digest
from tests.training import tiny

SCORES = {2: 0.3, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.2, 12: 0.1, 14: 0.05, 16: 0.04, 18: 0.03, 20: 0.02}
"""An accuracy that is at its best at step 4, and worse from there on."""
BY_SCORE: dict[str, Any] = {"metric_for_best_model": "eval_accuracy", "greater_is_better": True}
BY_LOSS: dict[str, Any] = {"metric_for_best_model": "eval_loss", "greater_is_better": False}
BEST_AT_END: dict[str, Any] = {**BY_SCORE, "load_best_model_at_end": True, "save_total_limit": 3}

ARGUMENTS: dict[str, Any] = {
    "per_device_train_batch_size": 4, "per_device_eval_batch_size": 4, "num_train_epochs": 2, "learning_rate": 1e-2,
    "logging_steps": 1, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2,
    "use_cpu": True, "report_to": "none", "disable_tqdm": True, "dataloader_pin_memory": False, "seed": 11,
}  # fmt: skip
"""10 steps, logged each, evaluated and saved every 2; an epoch has 5, its last with half a batch."""
REMEMBERED = "weights by step.txt"


class Scored(Trainer):
    """A Trainer whose evaluations also find `eval_accuracy`, as `scores` has it by step."""

    scores: Mapping[int, float] = SCORES

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_accuracy"] = self.scores[self.state.global_step]
        return output


def data(rows: int = 18, seed: int = 1) -> Dataset:
    """Token rows of 3 to 9 tokens."""
    return Dataset.from_dict({"input_ids": tiny.sentences(rows, seed=seed)})


def llama(seed: int = 0, *, tied: bool = False) -> Any:
    """A Llama of about 10,000 parameters with dropout in its attention; `tied` where both ends share a matrix."""
    torch.manual_seed(seed)
    model = tiny.model(tiny.Recipe())
    if not tied:
        return model
    model.config.tie_word_embeddings = True
    torch.manual_seed(seed)
    return type(model)(model.config)


def adapted(config: PeftConfig, base: Any = None, seed: int = 1, name: str = "default") -> Any:
    """A model with an adapter."""
    base = llama() if base is None else base
    torch.manual_seed(seed)
    with warnings.catch_warnings():
        # peft asks for what transformers has renamed
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(base, config, adapter_name=name)


def trainer(
    out: Path | str,
    kind: type[Trainer] = Trainer,
    *,
    model: Any = None,
    rows: Any = None,
    held_out: Any = None,
    collator: Any = tiny.pad,
    callbacks: Sequence[TrainerCallback] = (),
    parts: Mapping[str, Any] | None = None,
    **arguments: Any,
) -> Trainer:
    """A Trainer of 10 small steps; `parts` are further ones of its class, `arguments` those of TrainingArguments."""
    set_seed(11)
    model = llama() if model is None else model
    torch.manual_seed(11)
    return kind(
        model=model,
        args=TrainingArguments(str(out), **{**ARGUMENTS, **arguments}),
        train_dataset=data() if rows is None else rows,
        eval_dataset=data(6, seed=2) if held_out is None else held_out,
        data_collator=collator,
        callbacks=list(callbacks),
        **(parts or {}),
    )


class Remembers(TrainerCallback):
    """Writes down what the trained weights are after each step, for `weights_of_step`."""

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        Path(args.output_dir).mkdir(parents=True, exist_ok=True)
        with Path(args.output_dir, REMEMBERED).open("a") as file:
            file.write(f"{state.global_step} {trained(model)}\n")


def weights_of_step(trainer: Trainer) -> Facts:
    """The steps after which the trained weights were what they are now."""
    lines = [line.split() for line in Path(trainer.args.output_dir, REMEMBERED).read_text().splitlines()]
    return {"weights are of step": sorted({int(step) for step, weights in lines if weights == trained(trainer.model)})}


def trained(model: Any) -> str:
    """A digest of the weights that train."""
    return digest({name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad})
