"""On a GPU: the fast engine leaves what the stock engine leaves, and a resume goes on to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import torch
from safetensors.torch import load_file

import keepstep
from tests.training.tiny import Recipe, build

pytestmark = [pytest.mark.training, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")]


def _train(directory: Path, engine: str, resume: Any = None, **arguments: Any) -> tuple[Any, keepstep.Checkpointer]:
    given = {"use_cpu": False, "save_steps": 2, "num_train_epochs": 2, **arguments}
    trainer = build(Recipe(rows=16, arguments=given), directory)
    ckpt = keepstep.attach(trainer, engine=engine)
    trainer.train(resume_from_checkpoint=resume)
    return trainer, ckpt


def test_both_engines_leave_the_same_on_a_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KEEPSTEP_CHECK_SNAPSHOT", "1")
    _, fast = _train(tmp_path / "fast", "fast")
    _, stock = _train(tmp_path / "stock", "stock")
    for one, two in zip(fast.run.checkpoints, stock.run.checkpoints, strict=True):
        assert one.path is not None and two.path is not None and fast.run.verify(one).ok
        assert (one.path / "model.safetensors").read_bytes() == (two.path / "model.safetensors").read_bytes()
        ours, theirs = (torch.load(c.path / "optimizer.pt", weights_only=True) for c in (one, two))
        for key, state in theirs["state"].items():
            assert all(torch.equal(value, ours["state"][key][name]) for name, value in state.items())


def test_a_resume_on_a_gpu_is_exact(tmp_path: Path) -> None:
    whole, _ = _train(tmp_path / "whole", "fast")
    _train(tmp_path / "parts", "fast", max_steps=4)
    rest, ckpt = _train(tmp_path / "parts", "fast", "auto")
    assert ckpt.receipt is not None
    last = f"checkpoint-{whole.state.max_steps}/model.safetensors"
    one, two = load_file(tmp_path / "whole" / last), load_file(tmp_path / "parts" / last)
    assert rest.state.max_steps == whole.state.max_steps
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
