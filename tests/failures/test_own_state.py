"""State that others hold beside the model: generators, counters, averages, references; and which numbers count."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import EarlyStoppingCallback, TrainerCallback, default_data_collator
from transformers.trainer_callback import ExportableState

import keepstep
from keepstep.integrations.transformers.resuming import buffers, loop_state
from tests.failures.build import (
    EPOCH_STEPS,
    CrashAfter,
    Crashed,
    crash,
    logged,
    managed,
    receipt,
    rows,
    same,
    stock,
    train,
    weights,
)

pytestmark = pytest.mark.training

module_wide = np.random.default_rng(0)


# -- generators ------------------------------------------------------------------------------------------


class Masks:
    """A collator that masks by a generator of its own; the data set may have the same one."""

    def __init__(self, rng: Any) -> None:
        self.parts = {"rng": rng}

    def __call__(self, found: list[Any]) -> dict[str, torch.Tensor]:
        batch = default_data_collator(found)
        ids = batch["input_ids"]
        rng = self.parts["rng"]
        drawn = torch.tensor([[rng.random() for _ in row] for row in ids])
        return {**batch, "input_ids": ids.masked_fill(drawn < 0.3, 3)}


class MadeLate(Masks):
    """One that makes its generator with the first batch, as the library's own does from a seed."""

    def __init__(self) -> None:
        self.generator: Any = None

    def __call__(self, found: list[Any]) -> dict[str, torch.Tensor]:
        if self.generator is None:
            self.generator = np.random.default_rng(3)
        self.parts = {"rng": self.generator}
        return super().__call__(found)


class ByName:
    """One whose generator is a global of its module."""

    def __call__(self, found: list[Any]) -> dict[str, torch.Tensor]:
        return Masks(module_wide)(found)


class Drawn(torch.utils.data.Dataset[Any]):
    """Rows of which a word is drawn."""

    def __init__(self, rng: Any) -> None:
        self.rows, self.rng = rows(), rng

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        ids = self.rows[index]["input_ids"].clone()
        ids[0] = int(self.rng.random() * 60)
        return {"input_ids": ids, "labels": ids}


class Counted(Drawn):
    """Rows that say how often they were read."""

    reads = 0

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        self.reads += 1
        ids = self.rows[index]["input_ids"].clone()
        ids[0] = self.reads % 60
        return {"input_ids": ids, "labels": ids}


class Shakes(TrainerCallback):
    """Adds noise to a weight after each step."""

    def __init__(self) -> None:
        self.rng = torch.Generator().manual_seed(2)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        with torch.no_grad():
            model.lm_head.weight.add_(torch.randn(model.lm_head.weight.shape, generator=self.rng), alpha=1e-3)


def shared() -> dict[str, Any]:
    rng = np.random.default_rng(1)
    return {"data": Drawn(rng), "collator": Masks(rng)}


def by_name() -> dict[str, Any]:
    global module_wide
    module_wide = np.random.default_rng(0)
    return {"collator": ByName()}


HOLDERS: dict[str, Callable[[], dict[str, Any]]] = {
    "a data set and its collator share one": shared,
    "python's": lambda: {"collator": Masks(random.Random(1))},
    "made with the first batch": lambda: {"collator": MadeLate()},
    "a global of the module": by_name,
    "a callback": lambda: {"callbacks": [Shakes()]},
    "the global one": lambda: {"collator": Masks(random)},
}


def alone(out: Path, parts: Callable[[], dict[str, Any]], **settings: Any) -> Any:
    trainer = with_parts(stock, out, parts(), **settings)
    trainer.train()
    return weights(trainer.model)


def with_parts(kind: Any, out: Path, parts: dict[str, Any], **settings: Any) -> Any:
    collator = parts.pop("collator", None)
    callbacks = [*parts.pop("callbacks", []), *settings.pop("callbacks", [])]
    built = kind(out, **parts, callbacks=callbacks, **settings)
    trainer = built[0] if isinstance(built, tuple) else built
    if collator is not None:
        trainer.data_collator = collator
    return trainer


def resumed(out: Path, parts: Callable[[], dict[str, Any]], after: int, **settings: Any) -> Any:
    """Crashed after a step, and resumed with everything built anew."""
    first = with_parts(managed, out, parts(), **{**settings, "callbacks": [CrashAfter(after)]})
    with pytest.raises(Crashed):
        first.train()
    second = with_parts(managed, out, parts(), **settings)
    second.train(resume_from_checkpoint=True)
    return second


def check_exact(home: Path, parts: Callable[[], dict[str, Any]], steps: Iterable[int], **settings: Any) -> None:
    """Attaching moves nothing, and from each of the steps a training with everything built anew goes on exactly."""
    whole = alone(home / "whole", parts, **settings)
    saved = with_parts(managed, home / "saved", parts(), **settings)
    saved.train()
    assert same(weights(saved.model), whole)
    for step in steps:
        trainer = with_parts(managed, shutil.copytree(home / "saved", home / str(step)), parts(), **settings)
        trainer.train(resume_from_checkpoint=step)
        assert receipt(trainer.checkpointer).step == step
        assert same(weights(trainer.model), whole), f"after {step}"
        assert receipt(trainer.checkpointer).level == "exact", receipt(trainer.checkpointer).lines()


@pytest.mark.parametrize("parts", HOLDERS)
@pytest.mark.quick("share one", "first batch", "a callback")
def test_generators_go_on_where_they_stood(parts: str, tmp_path: Path) -> None:
    """a generator of one's own | begins anew, another course -> exact; attaching does not move it either."""
    check_exact(tmp_path, HOLDERS[parts], (4, EPOCH_STEPS, 10))


def test_generators_go_on_where_a_crash_left_them(tmp_path: Path) -> None:
    """The same where nothing is left of the process."""
    whole = alone(tmp_path / "whole", HOLDERS["python's"])
    trainer = resumed(tmp_path / "run", HOLDERS["python's"], 4)
    assert same(weights(trainer.model), whole)
    assert receipt(trainer.checkpointer).level == "exact"


def test_attaching_moves_nothing_that_reading_rows_moves(tmp_path: Path) -> None:
    """rows are read to be compared later | they come out otherwise than without keepstep -> as if nobody had read."""
    whole = alone(tmp_path / "whole", lambda: {"data": Counted(None)})
    trainer, checkpointer = train(tmp_path / "run", data=Counted(None))
    assert same(weights(trainer.model), whole)
    resumed(tmp_path / "again", lambda: {"data": Counted(None)}, 4)
    assert checkpointer.run.latest is not None


def test_accumulated_batches_are_drawn_as_they_would_have_been(tmp_path: Path) -> None:
    check_exact(tmp_path, shared, (1, 2, 3, 4), gradient_accumulation_steps=2, save_steps=1, eval_steps=1)


@pytest.mark.long
def test_the_stock_trainer_is_the_control(tmp_path: Path) -> None:
    parts = HOLDERS["python's"]
    whole = alone(tmp_path / "whole", parts)
    with pytest.raises(Crashed):
        with_parts(stock, tmp_path / "run", parts(), callbacks=[CrashAfter(4)]).train()
    trainer = with_parts(stock, tmp_path / "run", parts())
    trainer.train(resume_from_checkpoint=True)
    assert not same(weights(trainer.model), whole)


@pytest.mark.long
def test_copies_in_workers_are_named(tmp_path: Path) -> None:
    """Exact between two epochs, where workers begin anew anyway."""
    parts, settings = HOLDERS["python's"], {"dataloader_num_workers": 1, "eval_strategy": "no"}
    trainer = resumed(tmp_path / "mid", parts, 4, **settings)
    (reason,) = receipt(trainer.checkpointer).reasons
    assert reason.level == "approximate"
    assert reason.text.startswith("the random generator data_collator.parts['rng'] is drawn from by the data loader's")
    whole = alone(tmp_path / "whole", parts, **settings)
    trainer = resumed(tmp_path / "end", parts, EPOCH_STEPS, **settings)
    assert receipt(trainer.checkpointer).level == "exact" and same(weights(trainer.model), whole)


def test_what_has_no_state_is_named(tmp_path: Path) -> None:
    trainer = resumed(tmp_path / "run", lambda: {"collator": Masks(random.SystemRandom())}, 4)
    (reason,) = receipt(trainer.checkpointer).reasons
    assert reason.text.startswith("no state can be had of data_collator.parts['rng']")


def test_what_only_one_of_both_has_is_named(tmp_path: Path) -> None:
    out = tmp_path / "run"
    with pytest.raises(Crashed):
        with_parts(managed, out, HOLDERS["python's"](), callbacks=[CrashAfter(4)]).train()
    trainer = with_parts(managed, out, {"callbacks": [Shakes()]})
    trainer.train(resume_from_checkpoint=True)
    assert [reason.text for reason in receipt(trainer.checkpointer).reasons] == [
        "the random generator data_collator.parts['rng'] is in the checkpoint, and not found in this training",
        "the random generator callbacks.Shakes.rng is not in the checkpoint: it begins anew",
    ]


def test_a_checkpoint_of_before_is_no_less_honest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read = loop_state.LoopState.read.__func__  # type: ignore[attr-defined]
    older = {"own": None, "own_at_epoch_start": None, "ahead": None}
    monkeypatch.setattr(loop_state.LoopState, "read", classmethod(lambda kind, *at: replace(read(kind, *at), **older)))
    trainer = resumed(tmp_path / "run", HOLDERS["python's"], 4)
    text = [reason.text for reason in receipt(trainer.checkpointer).reasons]
    assert "the random generator data_collator.parts['rng'] is not in the checkpoint: it begins anew" in text
    assert "the collator or the data set draws random numbers, ahead of the restored random state" in text


def test_a_search_that_fails_ends_no_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> Any:
        raise RuntimeError("a fault of our own")

    monkeypatch.setattr("keepstep.integrations.transformers.resuming.own_generators.find", fail)
    monkeypatch.setattr("keepstep.integrations.transformers.resuming.moving.tensors_beside", fail)
    trainer, checkpointer = train(tmp_path / "run")
    assert trainer.state.global_step == 12 and checkpointer.run.latest is not None


# -- callbacks -------------------------------------------------------------------------------------------


class Counts(TrainerCallback, ExportableState):
    def __init__(self, name: str = "", count: int = 0) -> None:
        self.name, self.count = name, count

    def state(self) -> dict[str, Any]:
        return {"args": {"name": self.name}, "attributes": {"count": self.count}}

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.count += 1 if self.name == "one" else 10


@pytest.mark.parametrize("stock_way", [False, True], ids=["", "restored by the library"])
def test_two_callbacks_of_one_class_keep_their_counts(stock_way: bool, out: Path) -> None:
    """two callbacks of one class | one state is lost -> each its own."""
    settings = {"restore_callback_states_from_checkpoint": stock_way}
    crash(out, after=4, callbacks=[Counts("one"), Counts("two")], **settings)
    crash(out, after=8, resume=True, callbacks=[Counts("one"), Counts("two")], **settings)
    trainer, checkpointer = train(out, True, callbacks=[Counts("one"), Counts("two")], **settings)
    found = [one for one in trainer.callback_handler.callbacks if isinstance(one, Counts)]
    assert [(one.name, one.count) for one in found] == [("one", 12), ("two", 120)]
    assert receipt(checkpointer).level == "exact"
    stored: Any = trainer.state.stateful_callbacks
    assert [one["attributes"]["count"] for one in stored["Counts"]] == [12, 120], (
        "what stock files hold is as many as there are"
    )


def test_two_early_stoppings_keep_their_patience(out: Path, tmp_path: Path) -> None:
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.3, 12: 0.2}

    def settings() -> dict[str, Any]:
        both = [EarlyStoppingCallback(3), EarlyStoppingCallback(50)]
        best = {"metric_for_best_model": "accuracy", "load_best_model_at_end": True}
        return {"scores": scores, "callbacks": both, **best}

    whole, _ = train(tmp_path / "whole", **settings())
    crash(out, after=8, **settings())
    trainer, _ = train(out, True, **settings())
    assert trainer.state.global_step == whole.state.global_step == 10


# -- what moves beside the model -------------------------------------------------------------------------


class Average(TrainerCallback):
    """An average of the weights that warms up with a count of its own."""

    def __init__(self) -> None:
        self.shadow: dict[str, torch.Tensor] = {}
        self.constant = torch.ones(3)
        self.steps, self.every = 0, 1

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.shadow = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.steps += 1
        for name, parameter in model.named_parameters():
            self.shadow[name] = self.shadow[name].lerp(parameter.detach(), 1 / (1 + self.steps))


@pytest.mark.parametrize("engine", ["fast", "stock"])
@pytest.mark.quick(1)
def test_an_average_that_a_callback_holds_goes_on(
    engine: str, out: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    """averaged weights in memory | begin anew -> exact, in the extra file."""
    whole = Average()
    train(tmp_path / "whole", callbacks=[whole], engine=engine)
    said()
    crash(out, after=8, callbacks=[Average()], engine=engine)
    assert "move beside the model (callbacks.Average.shadow['model.embed_tokens.weight']," in said()
    second = Average()
    second.every = 3
    _, checkpointer = train(out, True, callbacks=[second], engine=engine)
    assert same(second.shadow, whole.shadow) and second.steps == 12
    assert second.every == 3, "a setting is the script's"
    assert receipt(checkpointer).level == "exact"
    assert not any("constant" in name for name in _extra(out / "checkpoint-12"))


def test_nothing_is_kept_of_what_does_not_move(out: Path) -> None:
    class Teaches(TrainerCallback):
        def __init__(self) -> None:
            self.teacher = torch.nn.Linear(4, 4)

    train(out, callbacks=[Teaches()])
    assert not (out / "checkpoint-12" / "keepstep_extra.safetensors").exists()


class Slow(torch.optim.SGD):
    """Lookahead: slow weights and a count, in no `state_dict`."""

    def __init__(self, parameters: Any, **settings: Any) -> None:
        super().__init__(parameters, **settings)
        self.count = 0
        self.slow = [one.detach().clone() for group in self.param_groups for one in group["params"]]

    def step(self, closure: Any = None) -> Any:
        super().step(closure)
        self.count += 1
        if self.count % 3 == 0:
            fast = [one for group in self.param_groups for one in group["params"]]
            for slow, one in zip(self.slow, fast, strict=True):
                slow.lerp_(one.detach(), 0.5)
                one.data.copy_(slow)


def test_what_an_optimizer_keeps_outside_of_its_state_goes_on(tmp_path: Path) -> None:
    settings: dict[str, Any] = {"eval_strategy": "no"}

    def build(out: Path) -> Any:
        trainer, _ = managed(out, **settings)
        trainer.optimizer_cls_and_kwargs = (Slow, {"lr": 1e-1})
        return trainer

    whole = build(tmp_path / "whole")
    whole.train()
    for after in (4, 8):
        first = build(tmp_path / str(after))
        first.add_callback(CrashAfter(after))
        with pytest.raises(Crashed):
            first.train()
        second = build(tmp_path / str(after))
        second.train(resume_from_checkpoint=True)
        assert same(weights(second.model), weights(whole.model))
        assert receipt(second.checkpointer).level == "exact"


def _extra(checkpoint: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(checkpoint / "keepstep_extra.safetensors", "pt") as file:
        return list(file.keys())


# -- completions that are trained on once more -----------------------------------------------------------


def _generating(step: int, batches: Any) -> Any:
    return SimpleNamespace(
        args=SimpleNamespace(steps_per_generation=2, device=torch.device("cpu")),
        num_iterations=2,
        _step=step,
        _buffered_inputs=batches,
    )


def test_a_buffer_is_kept_inside_of_a_generation_alone(tmp_path: Path) -> None:
    batches = [{"ids": torch.arange(3), "n": 2, "none": None, "words": ["a"]}, {"ids": torch.ones(2)}]
    assert buffers.capture(_generating(8, batches)) == (None, "")
    kept, why = buffers.capture(_generating(9, batches))
    assert not why and kept["_buffered_inputs"][0]["ids"] is not batches[0]["ids"]
    torch.save(kept, tmp_path / "buffer.pt")
    other = _generating(0, None)
    buffers.restore(other, tmp_path / "buffer.pt")
    assert other._step == 9 and repr(other._buffered_inputs) == repr(batches)


def test_a_buffer_that_cannot_be_kept_is_named() -> None:
    kept, why = buffers.capture(_generating(9, [{"images": [object()]}]))
    assert kept is None and "it holds a object" in why


# -- numbers in force ------------------------------------------------------------------------------------


def test_a_learning_rate_that_was_never_in_force_is_not_told(out: Path) -> None:
    """resumed twice with other rates | the second receipt names the first, which never was -> what is in force."""
    crash(out, after=4)
    crash(out, after=8, resume=True, learning_rate=5e-3)
    trainer, checkpointer = managed(out, learning_rate=2e-3)
    trainer.train(resume_from_checkpoint=True)
    (reason,) = receipt(checkpointer).reasons
    assert reason.text == (
        "learning_rate was 0.005 in the arguments and 0.01 in force, now 0.002: what was in force stays, it is part "
        'of the optimizer\'s state; override=["learning_rate"] takes the new one'
    )
    optimizer: Any = trainer.optimizer
    assert optimizer.param_groups[0]["initial_lr"] == 1e-2


def test_the_rate_that_is_in_force_is_no_difference(out: Path, tmp_path: Path) -> None:
    crash(out, after=4)
    crash(out, after=8, resume=True, learning_rate=5e-3)
    _, checkpointer = train(out, True)
    assert receipt(checkpointer).level == "exact"


def test_arguments_that_a_given_optimizer_makes_nothing_of(out: Path) -> None:
    def trainer_of(rate: float, **arguments: Any) -> Any:
        trainer: Any = stock(out, **arguments)
        trainer.optimizer = torch.optim.AdamW(trainer.model.parameters(), lr=rate)
        return trainer, keepstep.attach(trainer)

    first, _ = trainer_of(1e-3, callbacks=[CrashAfter(4)])
    with pytest.raises(Crashed):
        first.train()
    second, checkpointer = trainer_of(1e-3, learning_rate=5e-3, callbacks=[CrashAfter(8)])
    with pytest.raises(Crashed):
        second.train(resume_from_checkpoint=True)
    assert receipt(checkpointer).level == "exact"
    third, checkpointer = trainer_of(2e-3)
    third.train(resume_from_checkpoint=True)
    (reason,) = receipt(checkpointer).reasons
    assert reason.text.startswith("learning_rate of the optimizer that is handed over is 0.002, and 0.001 stays in")
    assert logged(third, "learning_rate")


def test_a_plateaus_numbers_are_its_own(out: Path) -> None:
    plateau: dict[str, Any] = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "eval_loss"}
    crash(out, after=4, **plateau, lr_scheduler_kwargs={"patience": 0})
    trainer, checkpointer = managed(out, **plateau, lr_scheduler_kwargs={"patience": 7})
    trainer.train(resume_from_checkpoint=True)
    (reason,) = receipt(checkpointer).reasons
    assert reason.text.endswith("the checkpoint's numbers stay in force, they are part of the scheduler's state")
    scheduler: Any = trainer.lr_scheduler
    assert scheduler.patience == 0
