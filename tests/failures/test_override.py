"""Arguments that are to take their new value at a resume: what changes by it, what continues, and what is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import keepstep
from keepstep import Checkpointer
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.launched import options
from tests.failures.build import At, crash, model, receipt, same, stock, weights

pytestmark = pytest.mark.training
OLD_VALUES = ["learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "lr_scheduler_type"]
OLD_VALUES += ["warmup_steps", "num_train_epochs", "max_steps", "per_device_train_batch_size", "seed", "data_seed"]
OLD_VALUES += ["gradient_accumulation_steps", "world_size"]


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of 12 steps in 2 epochs that was killed after step 6, the end of the first; its newest is of step 6."""
    out = tmp_path_factory.mktemp("crashed") / "run"
    crash(out, after=6)
    return out


@pytest.fixture
def run(crashed: Path, out: Path) -> Path:
    """A copy of it."""
    shutil.copytree(crashed, out)
    return out


class Looks:
    """The optimizer's groups and the scheduler's rates before step 7, and the rates that are logged."""

    def __init__(self) -> None:
        self.groups: list[dict[str, Any]] = []
        self.callback = At(6, self._look)

    def _look(self, optimizer: Any, **_: Any) -> None:
        self.groups = [{name: value for name, value in g.items() if name != "params"} for g in optimizer.param_groups]


def resume(out: Path, override: Any, looks: Looks | None = None, **settings: Any) -> tuple[Any, Checkpointer]:
    """Go on from step 6 by an override."""
    trainer = stock(out, callbacks=[looks.callback] if looks else [], logging_steps=1, **settings)
    checkpointer = keepstep.attach(trainer, override=override)
    trainer.train(resume_from_checkpoint=6)
    return trainer, checkpointer


def texts(checkpointer: Checkpointer) -> list[str]:
    """What the receipt says, but for the logs that these tests want."""
    reasons = receipt(checkpointer).reasons
    return [f"{reason.level}: {reason.text}" for reason in reasons if not reason.text.startswith("logging_steps")]


def rates(trainer: Any) -> dict[int, float]:
    """The rates of steps that were logged."""
    return {e["step"]: e["learning_rate"] for e in trainer.state.log_history if "learning_rate" in e}


def test_optimizer(run: Path) -> None:
    """Each value of the optimizer is the new one, the moments go on, the schedule counts from the new peak."""
    looks = Looks()
    names = ["learning_rate", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"]
    changes = {"learning_rate": 5e-3, "weight_decay": 0.3, "adam_beta1": 0.8, "adam_beta2": 0.9, "adam_epsilon": 1e-6}

    trainer, checkpointer = resume(run, names, looks, **changes)

    decays, none = looks.groups
    for group in (decays, none):
        assert (group["initial_lr"], group["lr"]) == (5e-3, 5e-3 * 0.5)
        assert (group["betas"], group["eps"]) == ((0.8, 0.9), 1e-6)
    assert (decays["weight_decay"], none["weight_decay"]) == (0.3, 0.0)
    assert rates(trainer)[9] == pytest.approx(5e-3 * 4 / 12)
    said = texts(checkpointer)
    assert (
        "approximate: learning_rate 0.01 → 0.005 from step 6: the optimizer's moments continue; the schedule counts "
        "from the new peak at step 6 of 12; the rate jumps from 0.005 to 0.0025 at this step"
    ) in said
    assert "approximate: weight_decay 0.0 → 0.3 and 0.0 from step 6: the optimizer's moments continue" in said
    assert not any("stays in force" in text for text in said)
    moments = trainer.optimizer.state[next(iter(trainer.model.parameters()))]
    assert int(moments["step"]) == 12, "moments were continued, and not begun anew"


def test_groups_keep_their_ratio(out: Path) -> None:
    """Groups with rates of their own take those that the script makes of the new argument."""

    def optimizers(rate: float) -> Any:
        built = model()
        named = list(built.named_parameters())
        groups = [
            {"params": [p for _, p in named[:3]], "lr": rate},
            {"params": [p for _, p in named[3:]], "lr": rate / 10},
        ]
        return built, torch.optim.AdamW(groups)

    def train(rate: float, look: Looks, **resumed: Any) -> Any:
        built, optimizer = optimizers(rate)
        trainer = stock(out, callbacks=[look.callback], optimizers=(optimizer, None), max_steps=8, learning_rate=rate)
        trainer.model = trainer.model_wrapped = built
        checkpointer = keepstep.attach(trainer, override=["learning_rate"])
        trainer.train(**resumed)
        return checkpointer

    train(1e-2, Looks())
    look = Looks()
    checkpointer = train(4e-3, look, resume_from_checkpoint=6)

    assert [group["initial_lr"] for group in look.groups] == [4e-3, 4e-4]
    assert [group["lr"] for group in look.groups] == pytest.approx([1e-3, 1e-4])
    assert "learning_rate 0.01 and 0.001 → 0.004 and 0.0004 from step 6" in "\n".join(texts(checkpointer))
    assert "handed over" not in "\n".join(texts(checkpointer))


def test_the_old_values_are_exact(run: Path, uninterrupted: dict[str, Any], said: Callable[[], str]) -> None:
    """What changes nothing is exact to the bit, and said once."""
    trainer = stock(run)
    checkpointer = keepstep.attach(trainer, override=[*OLD_VALUES, "logging_steps", "max_grad_norm"])
    trainer.train(resume_from_checkpoint="auto")

    assert same(weights(trainer.model), uninterrupted)
    assert receipt(checkpointer).level == "exact"
    assert receipt(checkpointer).reasons == ()
    line = f"override: {', '.join(OLD_VALUES)}: as at the save, nothing changes by it; "
    assert said().count(f"{line}logging_steps, max_grad_norm: in force anyway, named or not") == 1


def test_more_epochs_of_a_constant_rate(tmp_path: Path) -> None:
    """With a constant schedule more epochs are exact up to the old end; a schedule with an end is stretched."""
    settings = {"lr_scheduler_type": "constant"}
    whole = stock(tmp_path / "whole", **settings)
    keepstep.attach(whole)
    whole.train()
    shutil.copytree(tmp_path / "whole", tmp_path / "more")
    ended: dict[str, Any] = {}
    at_old_end = At(12, lambda model, **_: ended.update(weights(model)), "on_step_end")

    trainer = stock(tmp_path / "more", callbacks=[at_old_end], num_train_epochs=3, **settings)
    checkpointer = keepstep.attach(trainer, override=["num_train_epochs"])
    trainer.train(resume_from_checkpoint=6)

    assert trainer.state.global_step == 18
    assert same(ended, weights(whole.model))
    assert texts(checkpointer) == [
        "exact: num_train_epochs 2 → 3: it ends at step 18, before at 12; the rate stays 0.01; exact up to step 12"
    ]


def test_a_schedule_is_stretched(run: Path) -> None:
    """More epochs, another type and a warmup count from this step on, and not from the next."""
    looks = Looks()
    names = ["num_train_epochs", "lr_scheduler_type"]

    trainer, checkpointer = resume(run, names, looks, num_train_epochs=3, lr_scheduler_type="polynomial")

    assert looks.groups[0]["lr"] == pytest.approx(1e-7 + (1e-2 - 1e-7) * 12 / 18)
    assert rates(trainer)[7] == pytest.approx(looks.groups[0]["lr"])
    said = "\n".join(texts(checkpointer))
    jump = "the rate jumps from 0.005 to 0.0066667 at this step"
    assert f"num_train_epochs 2 → 3: it ends at step 18, before at 12; the schedule is stretched; {jump}" in said
    assert f"lr_scheduler_type linear → polynomial: the schedule is the new one's at step 6 of 18; {jump}" in said


def test_by_plan_and_by_metric(run: Path, tmp_path: Path) -> None:
    """A schedule by a metric takes the place of one by plan, and the other way round: stock loaders fail there."""
    looks = Looks()
    resume(run, ["lr_scheduler_type"], looks, lr_scheduler_type="reduce_lr_on_plateau", metric_for_best_model="loss")
    assert looks.groups[0]["lr"] == 5e-3, "it goes on from the rate that there was"

    settings = {"lr_scheduler_type": "reduce_lr_on_plateau", "metric_for_best_model": "loss"}
    crash(tmp_path / "metric", after=6, **settings)
    looks = Looks()
    trainer, _ = resume(tmp_path / "metric", "lr_scheduler_type", looks)
    assert looks.groups[0]["lr"] == 5e-3
    assert rates(trainer)[12] == pytest.approx(1e-2 / 12)


def test_seeds(run: Path, tmp_path: Path) -> None:
    """A new seed draws what follows: the same as any other resume by it, and another than without."""
    trainer, checkpointer = resume(run, ["data_seed"], data_seed=7)
    said = "the running epoch keeps its order, those that follow have the new seed's"
    assert texts(checkpointer)[0] == f"approximate: data_seed not set → 7 from step 6: {said}"
    fresh = stock(tmp_path / "fresh", data_seed=7)
    loader = fresh.get_train_dataloader()
    assert loader.batch_sampler.sampler.initial_seed == 7
    assert trainer.callback_handler.train_dataloader.batch_sampler.sampler.initial_seed == 7


def test_a_schedule_by_steps(run: Path) -> None:
    """max_steps and warmup_steps are in force from here on too."""
    looks = Looks()
    trainer, checkpointer = resume(run, "max_steps,warmup_steps", looks, max_steps=9, warmup_steps=3)

    assert looks.groups[0]["lr"] == pytest.approx(1e-2 * 3 / 6)
    assert trainer.state.global_step == 9
    assert "max_steps -1 → 9: it ends at step 9, before at 12; the schedule is shortened" in texts(checkpointer)[1]


def test_without_an_override(run: Path) -> None:
    """A changed learning rate stays the checkpoint's, as before, and the line names the way."""
    looks = Looks()
    _, checkpointer = resume(run, (), looks, learning_rate=5e-3)

    assert looks.groups[0]["initial_lr"] == 1e-2
    (said,) = texts(checkpointer)
    assert said.endswith(
        'stays in force, it is part of the optimizer\'s state; override=["learning_rate"] takes the new one'
    )


def test_what_can_be_named(out: Path) -> None:
    """An unknown name has an error with near ones and the list; so has what can't be overridden, and no names."""
    trainer = stock(out)
    with pytest.raises(SettingsError, match="'learning_rat', which is no argument") as error:
        keepstep.attach(trainer, override=["learning_rat"])
    assert "Did you mean 'learning_rate'" in str(error.value.hint)
    assert "world_size" in str(error.value.hint)
    with pytest.raises(SettingsError, match="override can't take 'optim'"):
        keepstep.attach(trainer, override="optim")
    with pytest.raises(SettingsError, match="override is 3"):
        keepstep.attach(trainer, override=3)  # type: ignore[arg-type]
    assert type(trainer).__mro__[0].__module__.startswith("transformers"), "what is refused leaves it as it was"


def test_from_the_environment() -> None:
    """KEEPSTEP_OVERRIDE names them with commas."""
    given = options({"KEEPSTEP_OVERRIDE": "learning_rate, weight_decay"})
    assert keepstep.integrations.transformers.setup.options.Options(**given).overrides == (
        "learning_rate",
        "weight_decay",
    )
