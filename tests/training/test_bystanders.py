"""Whose callbacks a save must wait for, and whose tokenizer files can be used again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from transformers import PrinterCallback, TrainerCallback
from transformers.integrations import MLflowCallback, WandbCallback
from transformers.integrations.integration_utils import WandbLogModel

from keepstep.integrations.transformers.saving.tokenizer_files import TokenizerFiles
from keepstep.integrations.transformers.setup.bystanders import acts, readers
from tests.training.tiny import tokenizer

pytestmark = pytest.mark.training


class _Uploads(TrainerCallback):
    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None: ...


def _without_init(cls: type, **attributes: Any) -> Any:
    """A reporter as it is once it is set up: its library is not installed here."""
    reporter = cls.__new__(cls)
    vars(reporter).update(attributes)
    return reporter


def test_readers_are_those_whose_on_save_may_look_at_the_checkpoint() -> None:
    assert readers([PrinterCallback(), TrainerCallback()]) == []
    assert readers([_Uploads(), PrinterCallback()]) == ["_Uploads"]
    assert readers([_without_init(WandbCallback, _log_model=WandbLogModel.CHECKPOINT)]) == ["WandbCallback"]
    assert readers([_without_init(WandbCallback, _log_model=WandbLogModel.FALSE)]) == []
    assert readers([_without_init(MLflowCallback, _auto_end_run=False, _log_artifacts=True)]) == ["MLflowCallback"]
    assert readers([_without_init(MLflowCallback, _auto_end_run=False, _log_artifacts=False)]) == []


def test_an_instance_with_its_own_on_save_is_a_reader() -> None:
    callback = TrainerCallback()
    callback.on_save = lambda *_, **__: None
    assert readers([callback]) == ["TrainerCallback"]


def test_only_callbacks_of_others_act() -> None:
    assert not acts([PrinterCallback()], "on_log")
    assert acts([_Uploads()], "on_save") and not acts([_Uploads()], "on_step_begin")


class _Trainer:
    def __init__(self, processing_class: Any) -> None:
        self.processing_class = processing_class


def _saved(files: TokenizerFiles, trainer: Any, directory: Path) -> dict[str, bytes]:
    """What a save leaves in `directory`, with what was recorded instead of being written."""
    recorded: dict[Path, bytes] = {}
    directory.mkdir()
    with files.reused(trainer, recorded):
        trainer.processing_class.save_pretrained(directory)
    found = {path.name: path.read_bytes() for path in directory.iterdir()}
    assert not found or not recorded
    return found | {path.name: data for path, data in recorded.items()}


def test_an_unchanged_tokenizer_writes_once(tmp_path: Path) -> None:
    files, trainer = TokenizerFiles(), _Trainer(tokenizer())
    first = _saved(files, trainer, tmp_path / "1")
    second = _saved(files, trainer, tmp_path / "2")
    assert not list((tmp_path / "2").iterdir()) and first == second
    assert "tokenizer.json" in first


@pytest.mark.parametrize("change", ["token", "padding", "side", "template", "another"])
def test_a_changed_tokenizer_writes_anew(tmp_path: Path, change: str) -> None:
    files, trainer = TokenizerFiles(), _Trainer(tokenizer())
    _saved(files, trainer, tmp_path / "1")
    mine = trainer.processing_class
    if change == "token":
        mine.add_tokens(["<new>"])
    elif change == "padding":
        mine(["w1 w2", "w3"], padding=True)
    elif change == "side":
        mine.padding_side = "left"
    elif change == "template":
        mine.chat_template = "{{ messages }}"
    else:
        trainer.processing_class = tokenizer()
    second = _saved(files, trainer, tmp_path / "2")
    assert list((tmp_path / "2").iterdir())
    fresh = tmp_path / "fresh"
    trainer.processing_class.save_pretrained(fresh)
    assert second == {path.name: path.read_bytes() for path in fresh.iterdir()}


def test_a_trainer_without_a_tokenizer_is_left_alone(tmp_path: Path) -> None:
    with TokenizerFiles().reused(_Trainer(None), {}):
        pass
