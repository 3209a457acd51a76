"""Another number of processes at a resume, by an override: each sample of the running epoch is seen once."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from tests.failures.build import receipt
from tests.failures.test_override_batches import BATCH, ROWS, training
from tests.training.ranked import logs_of, run_ranks

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]


def _train(rank: int, home: Path, reference: Any, crash: int) -> None:
    settings = {"num_train_epochs": 2, BATCH: 2, "ddp_backend": "gloo"}
    trainer, checkpointer = training(home / "run", reference, crash=crash, override=["world_size", BATCH], **settings)
    found = {"seen": trainer.seen, "max_steps": trainer.state.max_steps, "epoch": trainer.state.epoch}
    found["said"] = str(checkpointer.receipt)
    (home / f"found-{rank}.json").write_text(json.dumps(found))


def _rows(found: list[dict[str, Any]]) -> list[int]:
    """What both ranks saw, in the order of the sampler."""
    return [row for step in found[0]["seen"] for one in found for row in one["seen"][step]]


def _found(home: Path) -> list[dict[str, Any]]:
    return [json.loads((home / f"found-{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.long
def test_two_processes_and_one(tmp_path: Path) -> None:
    whole, _ = training(tmp_path / "whole", None, num_train_epochs=2, save_strategy="no", **{BATCH: 4})
    assert run_ranks(tmp_path / "two", _train, tmp_path / "two", None, 8) == [0, 0], logs_of(tmp_path / "two")
    assert _rows(_found(tmp_path / "two"))[-8:] == whole.rows[ROWS : ROWS + 8]

    (tmp_path / "one").mkdir()
    shutil.copytree(tmp_path / "two" / "run", tmp_path / "one" / "run")
    settings = {"num_train_epochs": 2, BATCH: 3}
    alone, checkpointer = training(
        tmp_path / "one" / "run", "auto", crash=10, override=["world_size", BATCH], **settings
    )
    assert alone.rows == whole.rows[ROWS + 8 : ROWS + 14]
    said = str(receipt(checkpointer))
    assert "per_device_train_batch_size 2 → 3, world_size 2 → 1: 8 samples seen stay seen" in said
    assert "random numbers are divided in another way" in said

    assert run_ranks(tmp_path / "one", _train, tmp_path / "one", "auto", 0) == [0, 0], logs_of(tmp_path / "one")
    one, other = _found(tmp_path / "one")
    assert _rows([one, other]) == whole.rows[ROWS + 14 :]
    assert (one["epoch"], one["max_steps"]) == (2.0, 12)
    assert "world_size 1 → 2: 14 samples seen stay seen; epoch 2 goes on at sample 14 of 22" in other["said"]
