"""Every trainer of TRL, full and LoRA, attached and in the explicit form: killed once, resumed exactly."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training.cells import Cell, failures_of, inside
from tests.training.course import Kill
from tests.training.tiny import Recipe

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

ARGUMENTS = {
    "logging_steps": 3, "save_steps": 4, "eval_strategy": "steps", "eval_steps": 4, "num_train_epochs": 2,
    "save_strategy": "steps", "metric_for_best_model": "loss", "max_steps": 8,
}  # fmt: skip
KINDS = ("trainer", "sft", "dpo", "reward", "kto", "explicit")
WAYS = [(kind, lora) for kind in KINDS for lora in (False, True)]
"""Each kind has one way that is always tried, every other kind with an adapter."""


@pytest.mark.parametrize(
    ("kind", "lora"),
    [
        pytest.param(
            kind, lora, id=f"{kind}-{'lora' if lora else 'full'}", marks=[pytest.mark.long] * (number % 4 in (0, 3))
        )
        for number, (kind, lora) in enumerate(WAYS)
    ],
)
@pytest.mark.quick(2)
def test_a_trainer_killed_once_is_resumed_exactly(kind: str, lora: bool, tmp_path: Path) -> None:
    recipe = Recipe(kind, lora=lora, arguments=dict(ARGUMENTS))
    lives = ((Kill("save"),),) + (inside(2, "torch.save 2") if lora else ())
    assert failures_of(Cell(f"{kind}", recipe, (4, 8), lives, every=False), tmp_path) == []
