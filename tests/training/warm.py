"""What the libraries do once in a process, done before the fork: late imports, tables of patterns, templates.

Each step is one of their own trainers, saved by themselves: what keepstep does first is left to each child.
"""

from __future__ import annotations

import gc
import os
import tempfile
import warnings
from pathlib import Path

import torch
import tqdm
import transformers
from accelerate.state import AcceleratorState, GradientState

from tests.training.tiny import Recipe, build

_ONE_STEP = {"max_steps": 1, "save_steps": 1, "logging_strategy": "no"}
_RECIPES = (Recipe(arguments=_ONE_STEP), Recipe("sft", lora=True, arguments=_ONE_STEP))


def _train() -> None:
    tqdm.tqdm.monitor_interval = 0  # its thread would not survive a fork
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    before = dict(os.environ)
    with tempfile.TemporaryDirectory() as directory, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for recipe in _RECIPES:
            trainer = build(recipe, Path(directory) / recipe.kind)
            trainer.remove_callback(transformers.PrinterCallback)
            trainer.train()
    os.environ.clear()
    os.environ.update(before)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    transformers.logging.enable_progress_bar()


_train()
gc.collect()
