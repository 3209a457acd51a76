"""Checkpoints of stock writers that lack what trains: never gone on from random values, and said what to do.

Stock writers save of p-tuning what its encoder puts out, of projected prefixes the same, and of layers that somebody
has unfrozen beside an adapter nothing; the stock loader then goes on from what the script has built.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner
from peft import LoraConfig, get_peft_model
from transformers import Trainer, TrainerCallback

import keepstep
from keepstep.cli.main import main as cli
from keepstep.errors import BestNotLoaded, ResumeRefused
from tests.failures.build import model as whole
from tests.failures.kinds import Kind, Remembering, crashed, managed, state, trainer_of, undisturbed, unequal
from tests.failures.test_adapters import KINDS, LORA, _training, _two

pytestmark = [
    pytest.mark.training,
    pytest.mark.filterwarnings("ignore::UserWarning:peft"),
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
]

P_TUNING = KINDS["p-tuning"]
OWN = "encoder.pt"


def reasons_of(checkpointer: keepstep.Checkpointer) -> list[str]:
    assert checkpointer.receipt is not None
    return [str(reason.text) for reason in checkpointer.receipt.reasons]


def by_path(out: Path) -> str:
    return os.fspath(out / "checkpoint-4")


def test_it_is_refused_with_the_share_and_the_names(out: Path, engine: str) -> None:
    crashed(trainer_of(P_TUNING, out), 4)
    trainer, _ = managed(P_TUNING, out, engine)
    text = r"7 tensors are in none of its files \(100\.0% of the values that train\): prompt_encoder\.default\."
    with pytest.raises(ResumeRefused, match=text) as refused:
        trainer.train(resume_from_checkpoint=by_path(out))
    assert "on_train_begin" in refused.value.hint
    assert trainer.state.global_step == 4
    assert sorted(path.name for path in out.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.long
def test_the_stock_trainer_goes_on_from_random_values(out: Path, tmp_path: Path) -> None:
    """The control."""
    alone = undisturbed(P_TUNING, tmp_path / "alone")
    crashed(trainer_of(P_TUNING, out, eval_strategy="no"), 4)
    trainer = trainer_of(P_TUNING, out, eval_strategy="no")
    trainer.train(resume_from_checkpoint=by_path(out))
    assert unequal(state(alone.model), state(trainer.model)) != []


def test_one_that_stock_loaders_fail_at_is_refused_by_name(out: Path) -> None:
    """The stock loader would raise a mismatch of sizes that names neither the checkpoint nor what is missing."""
    crashed(trainer_of(KINDS["prefix, projected"], out), 4)
    trainer, _ = managed(KINDS["prefix, projected"], out, "fast")
    with pytest.raises(ResumeRefused, match=r"5 tensors are in none of its files .*prompt_encoder.default\.embedding"):
        trainer.train(resume_from_checkpoint=by_path(out))


def test_layers_unfrozen_beside_an_adapter_are_refused(out: Path) -> None:
    crashed(trainer_of(KINDS["norms unfrozen"], out), 4)
    trainer, _ = managed(KINDS["norms unfrozen"], out, "fast")
    with pytest.raises(ResumeRefused, match=r"3 tensors are in none of its files \(\d+\.\d% .*norm\.weight"):
        trainer.train(resume_from_checkpoint=by_path(out))


# -- the ways out ----------------------------------------------------------------------------------------


class KeepsTheRest(TrainerCallback):
    """Writes beside each checkpoint what stock writers leave out, and puts it back when a training begins."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        trains = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
        torch.save(trains, self.home / f"{state.global_step}-{OWN}")

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        path = self.home / f"{state.global_step}-{OWN}"
        if path.is_file():
            model.load_state_dict(torch.load(path, weights_only=True), strict=False)


@pytest.mark.parametrize("name", ["p-tuning", "norms unfrozen"])
def test_a_callback_that_puts_it_back_is_heard(out: Path, tmp_path: Path, name: str) -> None:
    kind = KINDS[name]
    alone = undisturbed(kind, tmp_path / "alone")
    crashed(trainer_of(kind, out, KeepsTheRest(tmp_path), eval_strategy="no"), 4)
    trainer, checkpointer = managed(kind, out, "fast", KeepsTheRest(tmp_path), eval_strategy="no")
    trainer.train(resume_from_checkpoint=by_path(out))
    assert unequal(state(alone.model), state(trainer.model)) == []
    text = f"model: {kind.extra} tensors are in none of its files; something else has put values there"
    assert any(reason.startswith(text) for reason in reasons_of(checkpointer)), reasons_of(checkpointer)


class LoadsTheRest(Trainer):
    """A loader of the user's own."""

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        home = Path(resume_from_checkpoint).parents[1]
        loaded: Any = self.model
        loaded.load_state_dict(torch.load(home / f"4-{OWN}", weights_only=True), strict=False)


def test_a_loader_of_the_users_own_is_trusted(out: Path, tmp_path: Path) -> None:
    alone = undisturbed(P_TUNING, tmp_path / "alone")
    crashed(trainer_of(P_TUNING, out, KeepsTheRest(tmp_path), eval_strategy="no"), 4)
    trainer, _ = managed(P_TUNING, out, "fast", cls=LoadsTheRest, eval_strategy="no")
    trainer.train(resume_from_checkpoint=by_path(out))
    assert unequal(state(alone.model), state(trainer.model)) == []


def test_a_part_that_stock_writers_left_out_costs_no_adapter(out: Path, tmp_path: Path) -> None:
    """The stock loader has to be called, and would leave the second adapter frozen: the optimizer would not fit."""
    kind = Kind(lambda: _training(_two(), "norm"))
    crashed(trainer_of(kind, out, KeepsTheRest(tmp_path), eval_strategy="no"), 4)
    trainer, checkpointer = managed(kind, out, "fast", KeepsTheRest(tmp_path), eval_strategy="no")
    trainer.train(resume_from_checkpoint=by_path(out))
    assert {f"{p.requires_grad}" for n, p in trainer.model.named_parameters() if "lora" in n or "norm" in n} == {"True"}
    assert trainer.model.active_adapters == ["one", "two"]
    assert any("3 tensors are in none of its files" in reason for reason in reasons_of(checkpointer))


# -- what is no loss -------------------------------------------------------------------------------------


def _idle() -> Any:
    """An adapter beside a parameter that would train, and of which no loss ever depends."""
    model = get_peft_model(whole(), LoraConfig(**LORA))
    model.base_model.model.idle = torch.nn.Parameter(torch.ones(3))
    return model


@pytest.mark.parametrize(
    ("kind", "count"), [(Kind(_idle), "1 tensor is"), (KINDS["running statistics"], "3 tensors are")]
)
def test_what_no_step_has_trained_is_named_and_goes_on(out: Path, kind: Kind, count: str) -> None:
    """It is as it was, or finds its values again: a script that goes on with the stock Trainer goes on with ours."""
    crashed(trainer_of(kind, out, eval_strategy="no"), 4)
    trainer, checkpointer = managed(kind, out, "fast", eval_strategy="no")
    trainer.train(resume_from_checkpoint=by_path(out))
    text = f"model: {count} in none of its files, and no gradient has changed it"
    assert any(reason.startswith(text) for reason in reasons_of(checkpointer)), reasons_of(checkpointer)
    assert trainer.state.global_step == 8


# -- what no file of ours can hold either ----------------------------------------------------------------


class Turned(torch.nn.Module):
    """Turns the hidden state by a phase, in a dtype that safetensors files do not hold."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = torch.nn.Parameter(torch.ones(16, dtype=torch.complex128))

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return (hidden * self.phase).real.to(hidden.dtype)


def _turned() -> Any:
    model = get_peft_model(whole(), LoraConfig(**LORA))
    inner: Any = model.base_model.model.model
    norm = inner.norm
    inner.norm = torch.nn.Sequential(norm, Turned())
    return model


PHASE = "base_model.model.model.norm.1.phase"
TURNED = Kind(_turned)
SETTINGS = {"optim": "adamw_torch"}
"""The fused one takes no complex numbers."""


def test_it_is_said_at_the_first_save_and_refused_at_the_resume(
    out: Path, said: Callable[[], str], engine: str
) -> None:
    crashed(managed(TURNED, out, engine, eval_strategy="no", **SETTINGS)[0], 4)
    assert (
        f"1 of the tensors that train can be kept in no file ({PHASE}), and a resume without them is refused" in said()
    )
    trainer, _ = managed(TURNED, out, engine, eval_strategy="no", **SETTINGS)
    with pytest.raises(ResumeRefused, match=rf"1 tensor is in none of its files .*: {PHASE}"):
        trainer.train(resume_from_checkpoint=True)


@pytest.mark.quick(1)
def test_a_callback_that_does_as_is_said_makes_it_exact(out: Path, tmp_path: Path, engine: str) -> None:
    alone = undisturbed(TURNED, tmp_path / "alone", **SETTINGS)
    crashed(managed(TURNED, out, engine, KeepsTheRest(tmp_path), eval_strategy="no", **SETTINGS)[0], 4)
    trainer, checkpointer = managed(TURNED, out, engine, KeepsTheRest(tmp_path), eval_strategy="no", **SETTINGS)
    trainer.train(resume_from_checkpoint=True)
    assert unequal(state(alone.model), state(trainer.model)) == []
    assert reasons_of(checkpointer) == []
    assert checkpointer.receipt is not None
    assert len({*checkpointer.receipt.compared.split()[:3:2]}) == 1, checkpointer.receipt.compared


# -- the best at the end ---------------------------------------------------------------------------------


class Ending(TrainerCallback):
    """Hears of the end of a training, and copies the model as it is behind the last step."""

    def __init__(self) -> None:
        self.ended = False

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.last = {name: value.clone() for name, value in model.state_dict().items()}

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.ended = True


def test_a_best_that_does_not_come_back_gives_way_to_the_next(
    out: Path, tmp_path: Path, said: Callable[[], str], engine: str
) -> None:
    """Steps 4 and 6 lack their phases; that of the last step is in memory, so that step 8 comes back."""
    trainer, checkpointer = managed(TURNED, out, engine, Ending(), load_best_model_at_end=True, **SETTINGS)
    ending = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Ending))
    trainer.train()
    text = said()
    for step in (4, 6):
        assert f"checkpoint-{step} was loaded as the best, and did not come back: 1 of 5 tensors" in text
    assert unequal(ending.last, state(trainer.model)) == []
    assert trainer.state.best_model_checkpoint == os.fspath(out / "checkpoint-8")
    assert "best checkpoint-4, eval_accuracy 0.9 (it did not come back into the model: 1 of 5" in text
    result = CliRunner().invoke(cli, ["best", os.fspath(out)])
    assert (result.exit_code, result.stdout) == (0, f"{out / 'checkpoint-4'}\n")
    assert "At the end of its training it did not come back into the model: 1 of 5 tensors" in result.stderr
    keepstep.export(out, tmp_path / "model", check=False)
    assert "At the end of its training step 4 did not come back" in (tmp_path / "model" / "README.md").read_text()
    assert [event["step"] for event in checkpointer.run.events.read() if event["event"] == "unloaded"] == [4, 6]


def test_where_none_comes_back_the_script_hears_it_when_all_is_over(
    out: Path, said: Callable[[], str], engine: str
) -> None:
    """One save is kept beside the last, which is not ranked: its weights are in memory again, and that is an error."""
    trainer = trainer_of(TURNED, out, Ending(), load_best_model_at_end=True, **SETTINGS)
    trainer.compute_metrics = lambda _: {"accuracy": 0.9} if trainer.state.global_step == 4 else {"other": 1.0}
    checkpointer = keepstep.attach(trainer, engine=engine)  # pyright: ignore[reportArgumentType]
    ending = next(one for one in trainer.callback_handler.callbacks if isinstance(one, Ending))
    with pytest.raises(BestNotLoaded, match=rf"{out}/checkpoint-4, did not come back into the model: .*{PHASE}"):
        trainer.train()
    assert ending.ended
    assert unequal(ending.last, state(trainer.model)) == []
    text = said()
    assert "no best could be loaded: those of the last step are in memory again" in text
    assert "done: 4 checkpoints" in text
    assert not checkpointer.run.lock.held
    assert checkpointer.run.verify(checkpointer.run.find(8)).ok


@pytest.mark.long
def test_the_stock_trainer_ends_with_a_mixture(out: Path) -> None:
    """The control: the adapter of step 4, the phase of step 8."""
    memory = Remembering()
    trainer = trainer_of(TURNED, out, memory, load_best_model_at_end=True, **SETTINGS)
    trainer.train()
    assert unequal(memory.model, state(trainer.model)) == [PHASE]
