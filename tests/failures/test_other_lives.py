"""Trainers that are searched with, copied, pickled, deleted, and that train two at a time."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from accelerate.state import GradientState
from transformers import Trainer, TrainingArguments, default_data_collator

import keepstep
from keepstep.mirror import open_mirror
from tests.failures.build import (
    ARGUMENTS,
    crash,
    managed,
    model,
    names,
    receipt,
    rows,
    same,
    steps,
    stock,
    train,
    weights,
)

pytestmark = pytest.mark.training


def searching(out: Path, **arguments: Any) -> Trainer:
    """A Trainer that makes a new model for each trial."""
    settings = {**ARGUMENTS, "num_train_epochs": 1, "load_best_model_at_end": True, **arguments}
    return Trainer(
        model_init=lambda trial=None: model(),
        args=TrainingArguments(str(out), metric_for_best_model="eval_loss", save_total_limit=1, **settings),
        train_dataset=rows(),
        eval_dataset=rows(8, seed=9),
        data_collator=default_data_collator,
    )


@pytest.mark.long
def test_each_trial_of_a_search_is_a_run_of_its_own(out: Path) -> None:
    """hyperparameter_search, then train | works | AttributeError at the second trial -> n runs, then one more."""
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    trainer = searching(out)
    checkpointer = keepstep.attach(trainer, mirror=out.parent / "mirror")
    best = trainer.hyperparameter_search(
        direction="minimize",
        backend="optuna",
        n_trials=3,
        hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        sampler=optuna.samplers.RandomSampler(seed=1),
    )
    runs = [keepstep.open_run(str(out / f"run-{number}")) for number in range(3)]
    assert len({run.id for run in runs}) == 3
    mirrors = [open_mirror(out.parent / "mirror" / f"run-{number}") for number in range(3)]
    assert [mirror.run_id() for mirror in mirrors] == [run.id for run in runs], "each has a mirror of its own"
    values = [run.policy.metric.value(run.best.metrics) for run in runs if run.best and run.policy.metric]
    assert values.index(min(v for v in values if v is not None)) == int(best.run_id)
    rates = [run.latest.fingerprint["arguments"]["learning_rate"] for run in runs if run.latest]
    assert len(set(rates)) == 3, "each run knows what it was trained with"
    assert rates[int(best.run_id)] == best.hyperparameters["learning_rate"]

    for name, value in best.hyperparameters.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert checkpointer.run.path == out and steps(out)
    assert open_mirror(out.parent / "mirror").run_id() == checkpointer.run.id
    assert {"run-0", "run-1", "run-2"} <= set(names(out)), "no run of the search is touched"


def test_a_trainer_that_makes_its_model_itself_resumes_exactly(out: Path, tmp_path: Path) -> None:
    whole = searching(tmp_path / "whole")
    keepstep.attach(whole)
    whole.train()

    from tests.failures.build import CrashAfter, Crashed

    trainer = searching(out)
    trainer.add_callback(CrashAfter(4))
    keepstep.attach(trainer)
    with pytest.raises(Crashed):
        trainer.train()
    resumed = searching(out)
    checkpointer = keepstep.attach(resumed)
    resumed.train("auto")
    assert receipt(checkpointer).step == 4 and receipt(checkpointer).level == "exact"
    assert same(weights(resumed.model), weights(whole.model))


def test_a_model_that_does_not_fit_is_refused_also_where_the_trainer_makes_it(out: Path) -> None:
    from keepstep.errors import ResumeRefused

    crash(out, after=6)
    trainer = searching(out, num_train_epochs=2)
    trainer.model_init = lambda trial=None: model({"r": 4})
    keepstep.attach(trainer)
    with pytest.raises(ResumeRefused, match="does not fit this model"):
        trainer.train("auto")
    assert steps(out) == [2, 4, 6]


@pytest.mark.parametrize("way", ["deepcopy", "pickle"])
def test_a_copy_is_the_trainer_as_it_was_before(way: str, out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """copy.deepcopy, pickle | works | locks can't be pickled -> a copy that is not managed, and says so."""
    GradientState._reset_state()  # it remembers the loaders of every training in this process, which nobody can pickle
    trainer, checkpointer = managed(out)
    other = copy.deepcopy(trainer) if way == "deepcopy" else pickle.loads(pickle.dumps(trainer))
    assert type(other) is Trainer and not [name for name in vars(other) if name.startswith("_keepstep")]
    assert "a copy of this trainer is not managed by keepstep: call attach on it" in said()
    other.args.output_dir = str(tmp_path / "copied")
    other.train()
    assert not (tmp_path / "copied" / ".keepstep").exists()
    trainer.train()
    assert steps(out)[-1] == 12 and checkpointer.run.latest is not None
    assert other.state.global_step == trainer.state.global_step == 12


def test_a_trainer_that_never_trains_is_collected_and_leaves_nothing(out: Path) -> None:
    trainer, _ = managed(out)
    gone = weakref.ref(trainer)
    threads = threading.active_count()
    del trainer, _
    gc.collect()
    assert gone() is None
    assert threading.active_count() <= threads
    assert not (out / ".keepstep").exists()


def test_two_trainers_train_in_turns_in_two_directories(tmp_path: Path) -> None:
    def in_turns(make: Callable[[Path], Trainer], home: Path) -> list[dict[str, Any]]:
        one, two = make(home / "one"), make(home / "two")
        one.train()
        two.evaluate()
        two.train()
        return [weights(one.model), weights(two.model)]

    control = in_turns(stock, tmp_path / "stock")
    ours = in_turns(lambda path: managed(path)[0], tmp_path / "ours")
    assert all(same(mine, theirs) for mine, theirs in zip(ours, control, strict=True))
    one, two = (keepstep.open_run(str(tmp_path / "ours" / name)) for name in ("one", "two"))
    assert one.id != two.id and [c.step for c in one.checkpoints] == [c.step for c in two.checkpoints]


class SmallMemory(Trainer):
    """Pretends to run out of memory above two rows, from a step on."""

    since = 0

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        if inputs["input_ids"].shape[0] > 2 and self.state.global_step >= self.since:
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        return super().training_step(model, inputs, *args, **kwargs)


class SmallMemoryLater(SmallMemory):
    since = 3


@pytest.mark.parametrize("kind", [SmallMemory, SmallMemoryLater], ids=lambda kind: kind.__name__)
@pytest.mark.quick("Later")
def test_a_batch_size_that_is_found_by_trying(kind: type[Trainer], out: Path, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"trainer_class": kind, "auto_find_batch_size": True, "per_device_train_batch_size": 4}
    control = stock(tmp_path / "stock", **settings)
    control.train()
    trainer, checkpointer = train(out, **settings)
    assert trainer.state.global_step == control.state.global_step == 24
    assert same(weights(trainer.model), weights(control.model))
    assert all(checkpointer.run.verify(checkpoint).ok for checkpoint in checkpointer.run.checkpoints)
