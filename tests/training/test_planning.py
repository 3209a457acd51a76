"""What the planner says from a config alone against the files that a real training leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from keepstep.integrations.transformers.exporting.blueprint import inventory_of
from keepstep.operations.planning.optimizers import optimizer_named
from keepstep.operations.planning.sizes import CheckpointSize, measure
from tests.training.planned import STEPS, Combination, config_of, train
from tests.training.tiny import tokenizer

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def _momentum(model: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3, momentum=0.9)


COMBINATIONS = [
    Combination("llama"),
    Combination("llama", dtype="bf16"),
    Combination("gpt2"),
    Combination("qwen2", dtype="bf16"),
    Combination("llama", "adafactor"),
    Combination("llama", "adafactor", dtype="bf16"),
    Combination("llama", "sgd", planned_as="sgd-momentum", build_optimizer=_momentum),
    Combination("llama", "sgd"),
    Combination("gpt2", "adagrad"),
    Combination("llama", "rmsprop"),
    Combination("llama", rank=16),
    Combination("llama", dtype="bf16", rank=16, targets=("all-linear",)),
    Combination("gpt2", rank=64),
    Combination("qwen2", rank=32, targets=("q_proj", "k_proj", "v_proj", "o_proj")),
    Combination("qwen2", rank=8, modules_to_save=("lm_head",)),
]
WITH_BITSANDBYTES = [
    Combination("llama", "adamw_bnb_8bit"),
    Combination("llama", "adamw_bnb_8bit", dtype="bf16"),
    Combination("llama", "paged_adamw_8bit"),
    Combination("llama", "paged_adamw_32bit", dtype="bf16"),
    Combination("llama", "lion_32bit"),
    Combination("llama", "lion_8bit"),
    Combination("llama", "paged_lion_32bit", dtype="bf16"),
    Combination("llama", "adamw_bnb_8bit", rank=64, targets=("all-linear",)),
]


def _planned(combination: Combination, directory: Path) -> CheckpointSize:
    """The plan from a model directory without weights."""
    config_of(combination.model).save_pretrained(directory)
    tokenizer().save_pretrained(directory)
    inventory = inventory_of(
        str(directory),
        dtype=combination.dtype,
        lora_rank=combination.rank,
        lora_targets=combination.targets,
        lora_modules_to_save=combination.modules_to_save,
    )
    return measure(inventory, optimizer_named(combination.planned_as or combination.optimizer), steps=STEPS)


def _real(checkpoint: Path) -> CheckpointSize:
    sizes = {file.relative_to(checkpoint).as_posix(): file.stat().st_size for file in checkpoint.rglob("*")}
    weights = sum(size for name, size in sizes.items() if name.endswith(".safetensors"))
    optimizer = sizes["optimizer.pt"]
    return CheckpointSize(weights, optimizer, sum(sizes.values()) - weights - optimizer)


def _compare(combination: Combination, directory: Path) -> None:
    planned, real = _planned(combination, directory / "model"), _real(train(combination, directory / "run"))
    error = planned.total / real.total - 1
    print(
        f"| {combination.label} | {planned.weights:,} | {real.weights:,} | {planned.optimizer:,} | {real.optimizer:,} "
        f"| {planned.other:,} | {real.other:,} | {planned.total:,} | {real.total:,} | {error:+.3%} |"
    )
    assert planned.weights == real.weights
    assert planned.optimizer == pytest.approx(real.optimizer, rel=0.01, abs=2000)
    assert abs(error) <= 0.01


@pytest.mark.parametrize("combination", COMBINATIONS, ids=lambda c: c.label)
@pytest.mark.quick(5)
def test_planned_bytes_are_the_bytes_of_real_files(combination: Combination, tmp_path: Path) -> None:
    _compare(combination, tmp_path)


@pytest.mark.parametrize("combination", WITH_BITSANDBYTES, ids=lambda c: c.label)
def test_with_bitsandbytes_too(combination: Combination, tmp_path: Path) -> None:
    bitsandbytes = pytest.importorskip("bitsandbytes")
    # It remembers which parameters of an earlier training were to keep fp32 state, by their number.
    bitsandbytes.optim.GlobalOptimManager.get_instance().initialize()
    _compare(combination, tmp_path)
