"""A fine-tune as ckpt-chaos runs it: `python -m tests.campaign.chaos.trainer ENGINE OUT`.

ENGINE is one of keepstep's, fast or stock, or "alone": the same training with the stock Trainer, which goes on from its
last checkpoint as its documentation has it.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
    set_seed,
)
from transformers.trainer_utils import get_last_checkpoint

import keepstep


class Told(TrainerCallback):
    """Says where a training begins."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        print(f"resumed from step {state.global_step}", flush=True)


def built(out: Path) -> Trainer:
    """Four steps, and a checkpoint after every second."""
    set_seed(1)
    config = LlamaConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, attention_dropout=0.1, max_position_embeddings=32,
    )  # fmt: skip
    tokens = torch.randint(0, 64, (8, 8), generator=torch.Generator().manual_seed(0))
    arguments = TrainingArguments(
        os.fspath(out), max_steps=4, save_steps=2, logging_steps=1, per_device_train_batch_size=2, learning_rate=0.01,
        use_cpu=True, report_to=[], disable_tqdm=True,
    )  # fmt: skip
    return Trainer(
        LlamaForCausalLM(config),
        arguments,
        train_dataset=[{"input_ids": row, "labels": row} for row in tokens],  # type: ignore[arg-type]
        data_collator=default_data_collator,
        callbacks=[Told()],
    )


def train(engine: str, out: Path) -> None:
    """To the last step, and the weights into final.safetensors."""
    trainer = built(out)
    if engine == "alone":
        trainer.train(resume_from_checkpoint=get_last_checkpoint(out) if out.exists() else None)
    else:
        keepstep.attach(trainer, engine=engine)  # type: ignore[arg-type]
        trainer.train(resume_from_checkpoint="auto")
    weights = {name: tensor.clone() for name, tensor in trainer.model.state_dict().items()}
    (out / "final.safetensors").write_bytes(safetensors.torch.save(weights))


if __name__ == "__main__":
    train(sys.argv[1], Path(sys.argv[2]))
