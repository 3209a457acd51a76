"""How many checkpoints a training will write and about how large they are, before the first one is written."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from holdfast.integrations.transformers.arguments import plain
from holdfast.retention import All, Policy
from holdfast.units import format_size

_MOMENTS = {"sgd": 0.0, "adafactor": 0.05, "lion": 1.0, "rmsprop": 1.0, "adagrad": 1.0}
"""Optimizer state per trainable value, by the word that an optimizer's name begins with; AdamW keeps two."""


def checkpoint_bytes(trainer: Any) -> int:
    """About the bytes of one checkpoint: what is saved of the weights, and the optimizer's moments."""
    model, args = trainer.model, trainer.args
    adapter = hasattr(model, "peft_config")
    saved = [p for p in model.parameters() if p.requires_grad or not adapter]
    weights = sum(p.numel() * p.element_size() for p in saved)
    if args.save_only_model:
        return weights
    name = plain(args.optim).lower()
    moments = next((count for word, count in _MOMENTS.items() if name.startswith(word)), 2.0)
    trained = [p for p in model.parameters() if p.requires_grad]
    if "8bit" in name:
        return weights + int(moments * sum(p.numel() for p in trained))
    return weights + int(moments * sum(p.numel() * p.element_size() for p in trained))


def planned_saves(args: Any, state: Any) -> int:
    """Saves that the schedule asks for from now on; new bests in between come on top."""
    strategy = plain(args.save_strategy)
    left = max(state.max_steps - state.global_step, 0)
    if strategy == "steps" and state.save_steps:
        return -(-left // int(state.save_steps))
    if strategy == "best" and state.eval_steps:
        return -(-left // int(state.eval_steps))
    if strategy == "epoch":
        return max(state.num_train_epochs - int(state.epoch or 0), 0)
    return 0


def describe_saves(trainer: Any, state: Any, policy: Policy) -> str:
    """For the start line: saves to come, their size, and the sum where everything is kept."""
    saves = planned_saves(trainer.args, state)
    if saves == 0:
        return "nothing is scheduled to be saved"
    one = checkpoint_bytes(trainer)
    text = f"{saves} {'save' if saves == 1 else 'saves'} to come, about {format_size(one)} each"
    if any(isinstance(rule, All) for rule in policy.rules):
        free = shutil.disk_usage(_existing(Path(trainer.args.output_dir))).free
        text += f"; no limit is set, so all are kept: about {format_size(one * saves)} in all, {format_size(free)} free"
    return text


def _existing(path: Path) -> Path:
    path = path.absolute()
    while not path.exists():
        path = path.parent
    return path
