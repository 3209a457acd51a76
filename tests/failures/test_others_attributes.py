"""Attributes, methods and arguments of others that have the names that keepstep uses, or change while it looks away."""

from __future__ import annotations

import math
import os
from collections import defaultdict, deque
from collections.abc import Callable
from pathlib import Path
from types import MethodType
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback

import keepstep
from keepstep.integrations.transformers.resuming import attributes
from keepstep.run import Run
from tests.failures.build import crash, events, managed, names, receipt, same, steps, stock, train, weights

pytestmark = pytest.mark.training


class Flat(Trainer):
    """`_metrics` is {name: [values]}, as in older TRL and many forks."""

    kind: Callable[[float], Any] = float

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._metrics: Any = defaultdict(list)

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        loss, outputs = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        self._metrics["aux"].append(type(self).kind(loss.item()))
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        logs |= {name: float(sum(values)) / len(values) for name, values in self._metrics.items() if values}
        self._metrics.clear()
        super().log(logs, *args, **kwargs)


class FlatNumpy(Flat):
    kind = np.float32


class FlatTensor(Flat):
    kind = staticmethod(torch.tensor)


@pytest.mark.parametrize("kind", [Flat, FlatNumpy, FlatTensor], ids=lambda kind: kind.__name__)
@pytest.mark.quick(1)
def test_metrics_of_another_shape_go_on_exactly(kind: type[Trainer], out: Path, tmp_path: Path) -> None:
    """`_metrics` of other shapes | as it is | AttributeError at the first save -> exact."""
    settings: dict[str, Any] = {"trainer_class": kind, "logging_steps": 4, "eval_strategy": "no"}
    whole, _ = train(tmp_path / "whole", **settings)
    crash(out, after=6, **settings)
    resumed, checkpointer = train(out, True, **settings)
    logged = [{name: entry.get(name) for name in ("step", "loss", "aux")} for entry in whole.state.log_history]
    assert [{n: entry.get(n) for n in ("step", "loss", "aux")} for entry in resumed.state.log_history] == logged
    assert any(entry["aux"] for entry in logged)
    assert receipt(checkpointer).level == "exact"


def test_what_cannot_be_kept_is_named_and_ends_no_training(out: Path) -> None:
    class Odd(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self._stored_metrics = {"train": {"who": object()}}

    crash(out, after=6, trainer_class=Odd)
    _, checkpointer = train(out, True, trainer_class=Odd)
    assert receipt(checkpointer).level == "approximate"
    assert any("_stored_metrics (a object)" in reason.text for reason in receipt(checkpointer).reasons)


@pytest.mark.parametrize(
    "value",
    [
        {"train": defaultdict(list, {"a": [1, 2.5, math.inf]}), "eval": {}},
        {"n": 3, "x": -0.0, "none": None, "yes": True, "word": "é\0"},
        {1: {"two": (3, [4])}, (5, 6): "seven"},
        [np.float32(0.1), np.int64(7), np.bool_(True), np.arange(6, dtype=np.int16).reshape(2, 3)],
        [torch.tensor(0.1), torch.tensor([1.5, math.nan], dtype=torch.bfloat16), torch.tensor([[True]])],
        {"\0kind": "tuple", "items": [1]},
        deque([1, 2]),
        {"s": {1, 2}, "f": frozenset({"a"})},
    ],
    ids=str,
)
def test_values_survive_json(value: Any) -> None:
    import json

    found = attributes.decoded(json.loads(json.dumps(attributes.encoded(value))))
    assert repr(found) == repr(list(value) if isinstance(value, deque) else value).replace(
        "defaultdict(<class 'list'>, {'a': [1, 2.5, inf]})", "{'a': [1, 2.5, inf]}"
    )


def test_values_go_back_into_the_trainers_own_containers() -> None:
    class Holder:
        _metrics: Any = {"train": defaultdict(list, {"old": [0.0]}), "eval": defaultdict(list)}
        _stored_metrics: Any = defaultdict(lambda: defaultdict(list))
        _total_train_tokens = 5

    holder, before = Holder(), Holder._metrics
    attributes.restore(
        holder,
        {"_metrics": {"train": {"a": [1.0]}}, "_stored_metrics": {"train": {"b": [2.0]}}, "_total_train_tokens": 9},
    )
    assert holder._metrics is before and before["train"]["a"] == [1.0] and "old" not in before["train"]
    holder._stored_metrics["eval"]["c"].append(1.0)  # it is a defaultdict of defaultdicts still
    assert holder._stored_metrics["train"]["b"] == [2.0] and holder._total_train_tokens == 9


@pytest.mark.parametrize(
    "value", [object(), torch.zeros(5000), np.array(["x"]), 1j], ids=["object", "large", "words", "i"]
)
def test_what_json_cannot_give_back_is_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        attributes.encoded({"a": [value]})


def test_an_attribute_of_the_users_own_called_checkpointer_stays_theirs(out: Path) -> None:
    class Mine(Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            self.checkpointer = "mine"

    class OfTheClass(Trainer):
        def checkpointer(self) -> str:
            return "mine"

    trainer, checkpointer = managed(out, trainer_class=Mine)
    trainer.train()
    assert trainer.checkpointer == "mine" and checkpointer.run.latest is not None
    trainer, _ = managed(out / "other", trainer_class=OfTheClass)
    assert trainer.checkpointer() == "mine"
    trainer, checkpointer = managed(out / "third")
    assert trainer.checkpointer is checkpointer  # type: ignore[attr-defined]


def test_a_train_that_was_put_onto_the_instance_is_managed_too(out: Path) -> None:
    """trainer.train = ... (as some libraries do) | as it is | the raw word reaches the stock method -> managed."""
    called: list[Any] = []

    def patched(self: Any, resume_from_checkpoint: Any = None, **kwargs: Any) -> Any:
        called.append(resume_from_checkpoint)
        return Trainer.train(self, resume_from_checkpoint, **kwargs)

    crash(out, after=6)
    trainer = stock(out)
    trainer.train = MethodType(patched, trainer)  # type: ignore[method-assign]
    checkpointer = keepstep.attach(trainer)
    trainer.train("auto")
    assert called == [str(out / "checkpoint-6")]
    assert receipt(checkpointer).step == 6 and steps(out)[-1] == 12


def test_a_loader_that_was_put_onto_the_instance_is_called(out: Path) -> None:
    """It knows what it does: no file that we could load by name takes its place."""
    called: list[str] = []

    def load(self: Any, path: str, model: Any = None) -> None:
        called.append(Path(path).name)
        Trainer._load_from_checkpoint(self, path, model)

    lora = {"r": 4}
    crash(out, after=6, lora=lora)
    trainer = stock(out, lora=lora)
    trainer._load_from_checkpoint = MethodType(load, trainer)  # type: ignore[method-assign]
    keepstep.attach(trainer)
    trainer.train("auto")
    assert called == ["checkpoint-6"] and steps(out)[-1] == 12


def test_a_refused_attach_leaves_the_instance_as_it_was(out: Path) -> None:
    trainer = stock(out)
    mine = MethodType(lambda self: "mine", trainer)
    trainer.train = mine  # type: ignore[method-assign]
    with pytest.raises(keepstep.KeepstepError):
        keepstep.attach(trainer, keep="nonsense")
    assert type(trainer) is Trainer and vars(trainer)["train"] is mine


def test_arguments_that_change_after_attach_are_heard(out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """output_dir, save_total_limit, metric changed between attach and train | heard | ignored -> heard, and said."""
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.3, 12: 0.2}
    trainer, checkpointer = managed(out, scores=scores)
    other = tmp_path / "other"
    trainer.args.output_dir = str(other)
    trainer.args.save_total_limit = 1
    trainer.args.metric_for_best_model = "accuracy"
    trainer.args.greater_is_better = True
    trainer.train()
    assert list(out.iterdir()) == [] and checkpointer.run.path == other
    assert names(other) == ["checkpoint-4", "checkpoint-12"]
    assert f"metric eval_accuracy (higher is better); run {other}" in said()

    third = tmp_path / "third"
    trainer.args.output_dir, trainer.args.save_total_limit = str(third), 3
    trainer.train()
    assert checkpointer.run.path == third and steps(other) == [4, 12]
    assert len(names(third)) == 4


def test_a_relative_output_dir_survives_a_change_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, uninterrupted: dict[str, Any]
) -> None:
    class Elsewhere(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 3:
                (tmp_path / "elsewhere").mkdir(exist_ok=True)
                os.chdir(tmp_path / "elsewhere")

    monkeypatch.chdir(tmp_path)
    crash(Path("runs/a"), after=6, callbacks=[Elsewhere()])
    os.chdir(tmp_path)
    trainer, _ = train(Path("runs/a"), "auto", callbacks=[Elsewhere()])
    assert same(weights(trainer.model), uninterrupted)
    assert steps(tmp_path / "runs/a")[-1] == 12
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_error_in_our_own_notes_ends_no_training(
    out: Path, monkeypatch: pytest.MonkeyPatch, said: Callable[[], str]
) -> None:
    def fail(*_: Any, **__: Any) -> Any:
        raise RuntimeError("a fault of our own")

    base = "keepstep.integrations.transformers"
    for place in ("session.fingerprint", "session.describe_saves", "session.size_of"):
        monkeypatch.setattr(f"{base}.{place}", fail)
    monkeypatch.setattr(f"{base}.saving.step_record.written_by", fail)
    monkeypatch.setattr(f"{base}.resuming.loop.attributes.capture", fail)
    monkeypatch.setattr(f"{base}.setup.messages.say_commit", fail)
    crash(out, after=6)
    trainer, checkpointer = train(out, True)
    assert trainer.state.global_step == 12 and steps(out)[-1] == 12
    assert not events(out, "failed")
    assert len(events(out, "resumed")) == 1, "once, also where nothing could be compared"
    assert receipt(checkpointer).level == "approximate"
    text = said()
    assert (
        "the record of where the training loop stands failed, and is left out: RuntimeError: a fault of our own" in text
    )
    assert text.count("the note of a save failed") == 2, "once for each training"
    assert Run.open(out).latest is not None
