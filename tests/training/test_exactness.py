"""Killed at every saved step and resumed in a new process, a training ends bit for bit as if nothing had happened."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training.cells import Cell, complete, failures_of, inside
from tests.training.comparing import differences, load
from tests.training.course import Kill
from tests.training.tiny import NEWEST, Recipe, by_length

pytestmark = [pytest.mark.training, pytest.mark.timeout(600)]

IN_A_SAVE = (
    "make_directory", "weights", "torch.save", "torch.save 2", "torch.save 3", "torch.save 4", "loop state",
    "sync_file 5", "write", "rename", "sync_directory 2", "delete", "append",
)  # fmt: skip
"""From the first call of a save to the last: before the files, in each of them, at every step of the commit."""
IN_A_REMOVAL = ("rename 2", "sync_directory 3", "delete 2", "delete 3", "append 2")
SCORES = {2: 0.5, 4: 0.4, 6: 0.9, 8: 0.6, 10: 0.7, 12: 0.65, 14: 0.95, 15: 0.1}
AT_THE_END = (15,) if NEWEST else ()
"""From 5 on, transformers evaluates once more after the last step; 15 is no step of every second."""
EVERY_SECOND = {"eval_strategy": "steps", "eval_steps": 2, "metric_for_best_model": "accuracy"}

CELLS = (
    Cell(
        "full, every step logged",
        Recipe(),
        (4, 8, 12, 15),
        inside(1, "torch.save", "rename", "sync_directory 2") + inside(2, *IN_A_SAVE),
    ),
    Cell(
        "LoRA, accumulation 2 with a remainder, logged every third step",
        Recipe(lora=True, arguments={"gradient_accumulation_steps": 2, "logging_steps": 3, "save_steps": 2}),
        (2, 4, 6, 8, 9),
        ((Kill("save"), Kill("save")), (Kill("save", 2), Kill("torch.save", 2, 1), Kill("save", 2))),
    ),
    Cell(
        "everything by the epoch but the saves, which fall on its last step",
        Recipe(arguments={"logging_strategy": "epoch", "eval_strategy": "epoch", "save_steps": 5}),
        (5, 10, 15),
        ((Kill("evaluation", 2),), (Kill("epoch"),), (Kill("end"),)),
    ),
    Cell(
        "saved by the epoch, the best loaded at the end, two kept",
        Recipe(
            arguments={
                "save_strategy": "epoch", "eval_strategy": "epoch", "load_best_model_at_end": True, "logging_steps": 3,
                "gradient_accumulation_steps": 2, "save_total_limit": 2, "num_train_epochs": 4,
            }
        ),
        (3, 6, 9, 12),
        inside(3, *IN_A_REMOVAL),
    ),
    Cell(
        "saved when evaluated (best)",
        Recipe(
            scores=SCORES,
            arguments={**EVERY_SECOND, "save_strategy": "best", "logging_steps": 3, "save_total_limit": 1},
        ),
        (2, 4, 6, 8, 10, 12, 14, *AT_THE_END),
    ),
    Cell(
        "a new best at an unsaved step, the best loaded at the end",
        Recipe(scores=SCORES, arguments={**EVERY_SECOND, "save_steps": 4, "load_best_model_at_end": True}),
        (2, 4, 6, 8, 12, 14, 15),
    ),
    Cell(
        "SFT LoRA, max_steps in mid-epoch",
        Recipe("sft", lora=True, arguments={"max_steps": 12, "save_steps": 5, "logging_steps": 3}),
        (5, 10, 12),
        ((Kill("end"),), (Kill("save", 3), Kill("end"))),
    ),
    Cell(
        "SFT, ranked by TRL's own accuracy, the best loaded at the end",
        Recipe(
            "sft",
            arguments={
                "max_steps": 8, "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2, "greater_is_better": True,
                "metric_for_best_model": "eval_mean_token_accuracy", "load_best_model_at_end": True,
                "save_total_limit": 2,
            },
        ),
        (2, 4, 6, 8),
    ),
    Cell(
        "SFT packing, evaluated",
        Recipe(
            "sft",
            rows=40,
            arguments={
                "packing": True, "save_steps": 5, "logging_steps": 2, "eval_strategy": "steps", "eval_steps": 5,
                "per_device_train_batch_size": 3, "eval_packing": False,
            },
        ),
        (5, 10, 15, 20, 21),
    ),
    Cell(
        "grouped by length",
        Recipe(arguments={**by_length(), "save_steps": 3, "logging_steps": 3}),
        (3, 6, 9, 12, 15),
    ),
    Cell(
        "a sampler without a seed of its own, two workers",
        Recipe(
            lora=True,
            arguments={"accelerator_config": {"use_seedable_sampler": False}, "dataloader_num_workers": 2},
        ),
        (4, 8, 12, 15),
    ),
    Cell("seeded anew before train()", Recipe(reseed=True, arguments={"save_steps": 6}), (6, 12, 15)),
    Cell(
        "a collator that masks at random, accumulation 2 with a remainder",
        Recipe(masking="mlm", arguments={"gradient_accumulation_steps": 2, "save_steps": 2}),
        (2, 4, 6, 8, 9),
    ),
    Cell(
        "a stream in its second and third pass, with a collator that masks at random",
        Recipe(streaming=True, masking="own", arguments={"max_steps": 12, "save_steps": 4}),
        (4, 8, 12),
    ),
    Cell(
        "rows that a transform draws, in an order of the global generator, evaluated",
        Recipe(
            transform=True,
            masking="own",
            arguments={
                "accelerator_config": {"use_seedable_sampler": False}, "save_steps": 2, "eval_strategy": "steps",
                "eval_steps": 3,
            },
        ),
        (2, 4, 6, 8, 10, 12, 14, 15),
    ),
    Cell(
        "every step saved",
        Recipe(lora=True, rows=10, arguments={"save_steps": 1, "logging_steps": 3, "num_train_epochs": 2}),
        (1, 2, 3, 4, 5, 6),
    ),
    Cell(
        "early stopping",
        Recipe(
            scores=SCORES,
            patience=2,
            arguments={**EVERY_SECOND, "save_steps": 2, "load_best_model_at_end": True, "logging_steps": 3},
        ),
        (2, 4, 6, 8, 10),
        ((Kill("evaluation", 4),), (Kill("evaluation", 5),), (Kill("end"),)),
    ),
    Cell(
        "ReduceLROnPlateau",
        Recipe(
            scores=SCORES,
            arguments={
                **EVERY_SECOND, "save_steps": 4, "lr_scheduler_type": "reduce_lr_on_plateau",
                "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5}, "save_total_limit": 1,
            },
        ),
        (2, 4, 6, 8, 12, 14, 15),
    ),
)  # fmt: skip


@pytest.mark.parametrize("cell", CELLS, ids=lambda cell: cell.name)
@pytest.mark.quick(6)
def test_a_killed_training_ends_as_if_it_had_not_been_killed(cell: Cell, tmp_path: Path) -> None:
    assert failures_of(cell, tmp_path, cell.few) == []


@pytest.mark.long
@pytest.mark.parametrize("cell", [cell for cell in CELLS if cell.others], ids=lambda cell: cell.name)
def test_and_so_it_does_wherever_it_is_killed(cell: Cell, tmp_path: Path) -> None:
    assert failures_of(cell, tmp_path, cell.others) == []


@pytest.mark.long
def test_a_resume_in_an_interpreter_of_its_own_is_exact(tmp_path: Path) -> None:
    recipe = Recipe("sft", lora=True, arguments={"logging_steps": 3, "gradient_accumulation_steps": 2})
    reference = complete(tmp_path / "reference", recipe)
    resumed = complete(tmp_path / "resumed", recipe, Kill("save"), afresh=True)
    assert differences(reference, resumed) == []
    assert load(resumed / "outcome")["receipt"]["level"] == "exact"


def test_there_are_enough_kill_points(capsys: pytest.CaptureFixture[str]) -> None:
    count = sum(cell.kill_points for cell in CELLS)
    with capsys.disabled():
        print(f"\n{count} kill points in {len(CELLS)} cells")
    assert count >= 60
