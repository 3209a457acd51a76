"""`attach(links=True)`: two links beside the checkpoints, which stock code and uploads don't take for anything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from transformers import LlamaForCausalLM
from transformers.trainer_utils import get_last_checkpoint

import keepstep
from keepstep.checkpointer import Checkpointer
from tests.engine import chosen
from tests.failures.build import CrashAfter, Crashed, names, receipt, steps, stock

pytestmark = pytest.mark.training

SCORES = {2: 0.5, 4: 0.9, 6: 0.8, 8: 0.7, 10: 0.6, 12: 0.55}
FILES = ("config.json", "model.safetensors")


def managed(out: Path, **settings: Any) -> tuple[Any, Checkpointer]:
    trainer = stock(out, scores=SCORES, metric_for_best_model="accuracy", **settings)
    return trainer, keepstep.attach(trainer, keep="best:1,latest:1", links=True, **chosen())


def links(out: Path) -> dict[str, str]:
    return {name: os.readlink(out / name) for name in ("best", "latest")}


def test_a_training_leaves_both_and_stock_code_finds_what_it_found(out: Path) -> None:
    """links: from_pretrained takes them, get_last_checkpoint and a stock resume don't see them."""
    trainer, checkpointer = managed(out)
    trainer.train()

    assert links(out) == {"best": "weights-4", "latest": "checkpoint-12"}
    assert get_last_checkpoint(out) == str(out / "checkpoint-12")
    LlamaForCausalLM.from_pretrained(out / "best")
    again = stock(out, max_steps=14)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 14
    assert all(checkpointer.run.verify(c).ok for c in checkpointer.run.checkpoints)
    assert links(out) == {"best": "weights-4", "latest": "checkpoint-12"}


def test_a_crash_and_a_resume_keep_them_right(out: Path) -> None:
    trainer, _ = managed(out, callbacks=[CrashAfter(6)])
    with pytest.raises(Crashed):
        trainer.train()
    assert links(out) == {"best": "weights-4", "latest": "checkpoint-6"}
    again, checkpointer = managed(out)
    again.train(resume_from_checkpoint=os.fspath(out / "latest"))
    assert receipt(checkpointer).step == 6
    assert steps(out) == [4, 12]
    assert links(out) == {"best": "weights-4", "latest": "checkpoint-12"}


def test_without_the_request_the_next_training_removes_them(out: Path) -> None:
    managed(out)[0].train()
    trainer = stock(out, max_steps=14)
    keepstep.attach(trainer, keep="latest:1")
    trainer.train(resume_from_checkpoint="auto")
    assert names(out) == ["weights-4", "checkpoint-14"] or names(out) == ["checkpoint-14"]
    assert not any(os.path.lexists(out / name) for name in ("best", "latest"))


def test_an_upload_of_the_folder_takes_nothing_along_by_them(out: Path) -> None:
    """links: what HfApi().upload_folder would upload of the output_dir names no file below a link."""
    managed(out)[0].train()
    found = HfApi()._prepare_upload_folder_additions(out, path_in_repo="", ignore_patterns=[".keepstep/*"])
    paths = [operation.path_in_repo for operation in found]
    assert [path for path in paths if path.startswith(("best", "latest"))] == []
    assert any(path.startswith("checkpoint-12/") for path in paths)


def test_a_users_own_best_is_left_alone(out: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A script that saves its best model to output_dir/best by itself."""
    trainer, _ = managed(out)
    trainer.save_model(os.fspath(out / "best"))
    before = sorted(path.name for path in (out / "best").iterdir())
    trainer.train()
    assert sorted(path.name for path in (out / "best").iterdir()) == before
    assert set(FILES) <= set(before)
    assert os.readlink(out / "latest") == "checkpoint-12"
    assert sum("is not keepstep's" in record.getMessage() for record in caplog.records) == 1
