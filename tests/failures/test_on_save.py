"""Callbacks that write into a checkpoint when they hear that it is saved, or take something out of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from tests.failures.build import At, Crashed, crash, events, names, receipt, same, steps, train, weights

pytestmark = pytest.mark.training


def directory_of(args: Any, state: Any) -> Path:
    """Where a callback looks for the checkpoint that was just saved."""
    return Path(args.output_dir) / f"checkpoint-{state.global_step}"


class Average(TrainerCallback):
    """Keeps an average of the weights, writes it into each checkpoint, and reads it back at a resume."""

    def __init__(self) -> None:
        self.average: dict[str, torch.Tensor] = {}
        self.read_from = ""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.average = weights(model)
        path = directory_of(args, state) / "ema.pt"
        if state.global_step:
            self.average = torch.load(path)
            self.read_from = path.parent.name

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for name, value in weights(model).items():
            self.average[name].mul_(0.9).add_(value, alpha=0.1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.save(self.average, directory_of(args, state) / "ema.pt")


class Rewriter(TrainerCallback):
    """Saves the model once more in place, and edits its config."""

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        directory = directory_of(args, state)
        model.save_pretrained(directory)
        path = directory / "adapter_config.json"
        path.write_text(json.dumps(json.loads(path.read_text()) | {"base_model_name_or_path": "org/base"}))


class Results(TrainerCallback):
    """Writes a folder of its own into the checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        home = directory_of(args, state) / "results"
        home.mkdir()
        (home / "eval.json").write_text('{"score": 1}')


class Listener(TrainerCallback):
    """Only listens."""

    def __init__(self) -> None:
        self.whole: list[bool] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        names = {path.name for path in directory_of(args, state).iterdir()}
        self.whole.append({"model.safetensors", "optimizer.pt", "keepstep.json"} <= names)


def test_an_average_beside_the_weights_is_sealed_and_resumed_with(out: Path, tmp_path: Path) -> None:
    """ema.pt written in on_save | as it is | "an extra file", resume refused -> sealed, and the resume is exact."""
    whole = Average()
    train(tmp_path / "whole", callbacks=[whole])
    crash(out, after=6, callbacks=[Average()])
    again = Average()
    _, checkpointer = train(out, "auto", callbacks=[again])
    assert again.read_from == "checkpoint-6"
    assert same(again.average, whole.average)
    assert receipt(checkpointer).level == "exact"
    assert all(checkpointer.run.verify(checkpoint).ok for checkpoint in checkpointer.run.checkpoints)
    sealed = events(out, "sealed")
    assert [event["step"] for event in sealed] == [2, 4, 6, 8, 10, 12]
    assert all(event["added"] == ["ema.pt"] and event["by"] == ["Average"] for event in sealed)


def test_files_rewritten_in_on_save_are_sealed_with_what_they_were(out: Path) -> None:
    """adapter_config.json edited in on_save | as it is | damaged, resume refused -> sealed."""
    settings: dict[str, Any] = {"lora": {"r": 4}}
    crash(out, after=6, callbacks=[Rewriter()], **settings)
    _, checkpointer = train(out, "auto", callbacks=[Rewriter()], **settings)
    assert receipt(checkpointer).step == 6 and receipt(checkpointer).level == "exact"
    assert all(checkpointer.run.verify(checkpoint).ok for checkpoint in checkpointer.run.checkpoints)
    (rewritten,) = events(out, "sealed")[0]["rewritten"]
    assert rewritten["path"] == "adapter_config.json" and rewritten["before"] != rewritten["after"]


def test_each_callback_is_named_for_what_it_wrote(out: Path) -> None:
    listener = Listener()
    train(out, callbacks=[Average(), listener, Results()], save_steps=6, eval_steps=6)
    assert listener.whole == [True, True], "whoever hears of a save finds it whole"
    for event in events(out, "sealed"):
        assert event["by"] == ["Average", "Results"]
        assert event["added"] == ["ema.pt", "results/eval.json"]


def test_who_only_listens_seals_nothing(out: Path) -> None:
    train(out, callbacks=[Listener()])
    assert not events(out, "sealed")


def test_what_others_added_stays_when_a_checkpoint_is_thinned(out: Path) -> None:
    train(out, callbacks=[Average()], keep="latest:1,best:2")
    thinned = [name for name in names(out) if name.startswith("weights-")]
    assert thinned
    assert all((out / name / "ema.pt").is_file() and not (out / name / "optimizer.pt").exists() for name in thinned)


class Dropper(TrainerCallback):
    """Takes the optimizer's state out of every older checkpoint, to save room."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for path in Path(args.output_dir).glob("checkpoint-*/optimizer.pt"):
            if path.parent.name != f"checkpoint-{state.global_step}":
                path.unlink()


class Spoils(TrainerCallback):
    """Takes the optimizer's state out of the checkpoint of one step as soon as it is saved."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.seen: list[str] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.step:
            self.seen = names(Path(args.output_dir))
            (directory_of(args, state) / "optimizer.pt").unlink()


def test_the_policy_decides_by_what_callbacks_left(out: Path) -> None:
    """The newest loses its optimizer's state in on_save | resumes from the one before | that is gone -> it stays."""
    spoils = Spoils(6)
    crash(out, after=6, callbacks=[spoils], keep="latest:1")
    assert spoils.seen == ["checkpoint-4", "checkpoint-6"], "nothing goes before all have heard"
    assert "checkpoint-4" in names(out)
    _, checkpointer = train(out, "auto", keep="latest:1", callbacks=[Listener()])
    assert (receipt(checkpointer).step, receipt(checkpointer).level) == (4, "exact")
    assert steps(out) == [12]


class Breaks(TrainerCallback):
    """Fails when it hears of a save."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == 6:
            raise Crashed


def test_a_callback_that_fails_leaves_a_save_that_is_noted(out: Path) -> None:
    with pytest.raises(Crashed):
        train(out, callbacks=[Breaks()], keep="latest:1")
    assert [event["step"] for event in events(out, "kept")] == [2, 4, 6]
    assert steps(out) == [6]


SCORES = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.3, 12: 0.2}


def test_the_best_is_loaded_without_its_optimizer_state(out: Path) -> None:
    """optimizer.pt of older ones dropped | loads the best | passes the best over -> loads the best."""
    trainer, _ = train(
        out, callbacks=[Dropper()], scores=SCORES, metric_for_best_model="accuracy", greater_is_better=True,
        load_best_model_at_end=True,
    )  # fmt: skip
    assert Path(str(trainer.state.best_model_checkpoint)).name == "checkpoint-4"
    from safetensors.torch import load_file

    saved = load_file(out / "checkpoint-4" / "model.safetensors")
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items() if name in saved)


def test_a_resume_goes_on_from_the_newest_that_has_its_optimizer_state(
    out: Path, uninterrupted: dict[str, Any], said: Callable[[], str]
) -> None:
    crash(out, after=6)
    (out / "checkpoint-6" / "optimizer.pt").unlink()
    said()
    trainer, checkpointer = train(out, "auto")
    assert receipt(checkpointer).step == 4
    assert "optimizer.pt" in said()
    assert same(weights(trainer.model), uninterrupted)
    assert not (out / ".keepstep" / "quarantine").exists(), "it is no damage"


def test_a_stray_file_of_an_operating_system_is_nothing(out: Path, uninterrupted: dict[str, Any]) -> None:
    crash(out, after=6)
    (out / "checkpoint-6" / ".DS_Store").write_bytes(b"\0")
    (out / "checkpoint-6" / "notes.txt").write_text("a person's")
    trainer, checkpointer = train(out, "auto")
    assert receipt(checkpointer).step == 6 and same(weights(trainer.model), uninterrupted)


@pytest.mark.parametrize("planted", ["pytorch_model.bin", "model.safetensors.index.json"])
def test_a_file_that_a_loader_would_read_is_damage(planted: str, out: Path, said: Callable[[], str]) -> None:
    crash(out, after=6)
    (out / "checkpoint-6" / planted).write_bytes(b"{}")
    said()
    _, checkpointer = train(out, "auto")
    assert receipt(checkpointer).step == 4
    assert planted in said()


def test_a_callback_that_fails_in_on_save_fails_as_with_the_stock_trainer(out: Path) -> None:
    class Faulty(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        train(out, callbacks=[Faulty()])
    assert steps(out) == [2]


def test_a_callback_stops_the_training_in_on_save(out: Path) -> None:
    class Stopper(TrainerCallback):
        def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
            control.should_training_stop = state.global_step == 4
            return control

    trainer, _ = train(out, callbacks=[Stopper(), At(4, lambda **_: None)])
    assert trainer.state.global_step == 4 and steps(out) == [2, 4]
