"""The long form of the exactness tests: more kinds of training, each killed in every part of several saves."""

from __future__ import annotations

import os
from itertools import cycle
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training.cells import Cell, failures_of, inside
from tests.training.course import Kill
from tests.training.test_exactness import AT_THE_END, EVERY_SECOND, IN_A_REMOVAL, IN_A_SAVE, SCORES
from tests.training.tiny import Recipe, by_length

pytestmark = [pytest.mark.campaign, pytest.mark.training, pytest.mark.timeout(900)]

PAIRED = {"eval_strategy": "steps", "eval_steps": 5, "save_steps": 5, "logging_steps": 3}
TWICE = tuple((Kill("save", first), Kill("save", second)) for first in (1, 2) for second in (1, 2))


def everywhere(*saves: int) -> tuple[tuple[Kill, ...], ...]:
    """Every point of each of these saves."""
    return tuple(life for save in saves for life in inside(save, *IN_A_SAVE))


def somewhere(saves: int, parts: int = 2) -> tuple[tuple[Kill, ...], ...]:
    """A few points in each save, other ones in each, so that together they are all."""
    points = cycle(IN_A_SAVE)
    return tuple(life for save in range(1, saves + 1) for life in inside(save, *(next(points) for _ in range(parts))))


EPOCHS = {
    "save_strategy": "epoch", "eval_strategy": "epoch", "logging_strategy": "epoch", "num_train_epochs": 5,
    "save_total_limit": 2, "load_best_model_at_end": True,
}  # fmt: skip
PLATEAU = {"lr_scheduler_type": "reduce_lr_on_plateau", "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}}
ACCUMULATED = {"gradient_accumulation_steps": 2, "save_steps": 2, "logging_steps": 3}
ENDS = ((Kill("evaluation"),), (Kill("evaluation", 2),), (Kill("epoch"),), (Kill("end"),))

CELLS = (
    Cell("full", Recipe(), (4, 8, 12, 15), everywhere(1, 3, 4) + TWICE),
    Cell(
        "full, accumulation 2, logged every third step, workers",
        Recipe(arguments={**ACCUMULATED, "dataloader_num_workers": 2}),
        (2, 4, 6, 8, 9),
        somewhere(5) + TWICE,
    ),
    Cell(
        "LoRA, every step saved",
        Recipe(lora=True, arguments={"save_steps": 1, "logging_steps": 3}),
        tuple(range(1, 16)),
    ),
    Cell(
        "LoRA, epochs, two kept",
        Recipe(lora=True, arguments=EPOCHS),
        (5, 10, 15, 20, 25),
        inside(4, *IN_A_REMOVAL) + inside(5, *IN_A_REMOVAL) + ENDS,
    ),
    Cell(
        "SFT, everything at the epoch's last step",
        Recipe("sft", arguments={**PAIRED, "logging_strategy": "epoch"}),
        (5, 10, 15),
        somewhere(3) + TWICE[:3] + ENDS,
    ),
    Cell(
        "SFT LoRA",
        Recipe("sft", lora=True, arguments={**PAIRED, "save_steps": 4, "eval_steps": 4}),
        (4, 8, 12, 15),
        everywhere(2) + TWICE,
    ),
    Cell(
        "SFT packing LoRA, accumulation 2, in mid-epoch at the end",
        Recipe("sft", lora=True, rows=40, arguments={**ACCUMULATED, "packing": True, "max_steps": 10, "save_steps": 3}),
        (3, 6, 9, 10),
        somewhere(4) + TWICE,
    ),
    Cell("DPO LoRA", Recipe("dpo", lora=True, arguments=PAIRED), (5, 10, 15), somewhere(3)),
    Cell("reward", Recipe("reward", arguments=PAIRED), (5, 10, 15), somewhere(3)),
    Cell("KTO LoRA", Recipe("kto", lora=True, arguments={"logging_steps": 3}), (4, 8, 12, 15), somewhere(4)),
    Cell(
        "grouped by length, accumulation 2, workers",
        Recipe(lora=True, arguments={**ACCUMULATED, **by_length(), "dataloader_num_workers": 2}),
        (2, 4, 6, 8, 9),
        somewhere(5),
    ),
    Cell(
        "a sampler without a seed of its own, evaluated by the epoch",
        Recipe(
            arguments={
                **ACCUMULATED, "accelerator_config": {"use_seedable_sampler": False}, "eval_strategy": "epoch",
            }
        ),
        (2, 4, 6, 8, 9),
        somewhere(5),
    ),
    Cell(
        "seeded anew, every second step",
        Recipe(reseed=True, arguments={"save_steps": 2, "logging_steps": 3}),
        (2, 4, 6, 8, 10, 12, 14, 15),
    ),
    Cell(
        "early stopping in mid-epoch",
        Recipe(
            scores=SCORES, patience=1, arguments={**EVERY_SECOND, "save_steps": 2, "load_best_model_at_end": True}
        ),
        (2, 4),
        everywhere(2) + ENDS,
    ),
    Cell(
        "early stopping, callbacks restored by transformers, evaluated before the first step",
        Recipe(
            scores={0: 0.1, **SCORES},
            patience=2,
            arguments={
                **EVERY_SECOND, "save_steps": 4, "restore_callback_states_from_checkpoint": True,
                "eval_on_start": True, "logging_first_step": True, "logging_steps": 3,
            },
        ),
        (2, 4, 6, 8),
        somewhere(4) + ENDS,
    ),
    Cell(
        "best, limit 1",
        Recipe(lora=True, scores=SCORES, arguments={**EVERY_SECOND, "save_strategy": "best", "save_total_limit": 1}),
        (2, 4, 6, 8, 10, 12, 14, *AT_THE_END),
        somewhere(4) + inside(5, *IN_A_REMOVAL),
    ),
    Cell(
        "the plateau, evaluated more often than saved",
        Recipe(
            lora=True,
            scores=SCORES,
            arguments={**EVERY_SECOND, **PLATEAU, "save_steps": 4, "load_best_model_at_end": True},
        ),
        (2, 4, 6, 8, 12, 14, 15),
        somewhere(4),
    ),
)  # fmt: skip


CHOSEN = CELLS if os.environ.get("FULL") else CELLS[::2]
"""Every other one, where the whole campaign isn't asked for."""


@pytest.mark.parametrize("cell", CHOSEN, ids=lambda cell: cell.name)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(cell: Cell, tmp_path: Path) -> None:
    assert failures_of(cell, tmp_path) == []


def test_there_are_enough_kill_points(capsys: pytest.CaptureFixture[str]) -> None:
    count = sum(cell.kill_points for cell in CELLS)
    with capsys.disabled():
        print(f"\n{count} kill points in {len(CELLS)} cells")
    assert count >= 250
