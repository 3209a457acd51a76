from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import tyro
from datasets import load_dataset
from trl import RewardConfig, RewardTrainer


@dataclass
class Train:
    output_dir: str = "runs/reward"
    save_steps: int = 250
    eval_steps: int = 250
    limit: int | None = None
    lr: float = 1e-5
    schedule: Literal["linear", "cosine"] = "cosine"


@dataclass
class Args:
    """Train a reward model."""

    model: str = "Qwen/Qwen2.5-0.5B"
    train: Train = field(default_factory=Train)


def main(args: Args) -> None:
    config = RewardConfig(
        output_dir=args.train.output_dir,
        learning_rate=args.train.lr,
        lr_scheduler_type=args.train.schedule,
        eval_strategy="steps",
        eval_steps=args.train.eval_steps,
        save_steps=args.train.save_steps,
        save_total_limit=args.train.limit,
        load_best_model_at_end=True,
    )
    data = load_dataset("trl-lib/ultrafeedback_binarized")
    trainer = RewardTrainer(args.model, args=config, train_dataset=data["train"], eval_dataset=data["test"])
    trainer.train()


if __name__ == "__main__":
    main(tyro.cli(Args))
