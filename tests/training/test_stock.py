"""What keepstep commits serves stock tools: without keepstep the same checkpoints resume and load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training import processes
from tests.training.cells import complete, log_of
from tests.training.comparing import differences, load
from tests.training.course import Kill, load_with_stock_tools
from tests.training.tiny import Recipe

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

EVALUATED = {"eval_strategy": "steps", "eval_steps": 4, "save_total_limit": 2, "save_strategy": "steps"}


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.quick(1)
def test_stock_trainer_resumes_from_a_committed_checkpoint(lora: bool, tmp_path: Path) -> None:
    recipe = Recipe(lora=lora)
    reference = complete(tmp_path / "reference", recipe)
    home = tmp_path / "stock"
    # In the first epoch: stock transformers 4 resumes in later ones with the first one's data order.
    path = str(home / "run" / "checkpoint-4")
    complete(home, recipe, Kill("save"), managed=False, resume=path)
    assert not [text for text in differences(reference, home) if text.startswith("final/")]
    assert load(home / "outcome")["steps trained"] == 11


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.quick(1)
def test_committed_checkpoints_load_and_name_a_best_that_is_there(lora: bool, tmp_path: Path) -> None:
    home = complete(tmp_path / "home", Recipe(lora=lora, arguments=dict(EVALUATED)), Kill("save", 2))
    checkpoints = sorted((home / "run").glob("checkpoint-*"))
    assert checkpoints
    for checkpoint in checkpoints:
        assert processes.call(load_with_stock_tools, checkpoint, lora, log=home / "log") == 0, log_of(home)
    newest = max(checkpoints, key=lambda path: int(path.name.split("-")[1]))
    for checkpoint in checkpoints:
        best = Path(json.loads((checkpoint / "trainer_state.json").read_text())["best_model_checkpoint"])
        assert best.parent == home / "run"
        assert best.is_dir() or checkpoint != newest
