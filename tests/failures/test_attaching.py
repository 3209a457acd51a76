"""What attach takes and refuses, and what never gets into a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import Trainer
from transformers.trainer_callback import TrainerCallback

import keepstep
from keepstep import Best, Every, Latest
from keepstep.errors import PolicyError, SettingsError
from keepstep.transformers import ManagedTrainer
from tests.engine import chosen
from tests.failures.build import At, CrashAfter, Crashed, crash, files, managed, stock, train

pytestmark = pytest.mark.training


class Notes(TrainerCallback):
    """Notes who else is told of a step."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.told = [type(one).__name__ for one in self.trainer.callback_handler.callbacks]

    trainer: Any


def test_the_list_of_callbacks_is_the_users(out: Path) -> None:
    """As with the stock Trainer: before a training and after it, and whatever becomes of it in between."""
    alone = stock(out.with_name("stock"))
    trainer, _ = managed(out, callbacks=[failing := CrashAfter(4)])
    listed = [type(one) for one in alone.callback_handler.callbacks]

    assert [type(one) for one in trainer.callback_handler.callbacks] == [*listed[:-1], CrashAfter, *listed[-1:]]

    with pytest.raises(Crashed):
        trainer.train()
    assert trainer.callback_handler.callbacks.count(failing) == 1
    trainer.remove_callback(failing)
    assert [type(one) for one in trainer.callback_handler.callbacks] == listed


def test_a_callback_that_is_added_after_attach(out: Path) -> None:
    """Those of the training itself stand around it all the same, each once, in every training."""
    trainer, _ = managed(out)
    trainer.add_callback(notes := Notes())
    notes.trainer = trainer

    for _ in range(2):
        trainer.train()
        assert notes.told[0] == "GateCallback" and notes.told[-1] == "SessionCallback"
        assert (notes.told.count("GateCallback"), notes.told.count("SessionCallback")) == (1, 1)


def test_attach_twice(out: Path, said: Callable[[], str]) -> None:
    """A cell that is run twice: all is saved once, as the last attach says, and one line tells of it."""
    trainer, checkpointer = managed(out)
    before = len(trainer.callback_handler.callbacks)
    said()

    assert managed_again(trainer, keep="latest:2", on_commit=(kept := []).append) is checkpointer

    lines = said().splitlines()
    assert len([line for line in lines if "managed already" in line]) == 1
    assert len(trainer.callback_handler.callbacks) == before
    trainer.train()
    assert [c.step for c in checkpointer.run.checkpoints] == [10, 12]
    assert [event["step"] for event in kept] == [2, 4, 6, 8, 10, 12]


def managed_again(trainer: Any, **options: Any) -> Any:
    return keepstep.attach(trainer, **chosen(), **options)


def test_attach_again_after_a_training(out: Path) -> None:
    """The trainer goes on under what was said last, exactly."""
    trainer, checkpointer = managed(out, num_train_epochs=1)
    trainer.train()
    reference, _ = train(out.with_name("reference"))

    trainer.args.num_train_epochs = 2
    managed_again(trainer, keep="latest:1")
    trainer.train(resume_from_checkpoint="auto")

    assert [c.step for c in checkpointer.run.checkpoints] == [12]
    assert trainer.state.global_step == reference.state.global_step == 12


def test_attach_again_with_what_can_not_be(out: Path) -> None:
    """A wrong option is refused the second time too, and the first attach stands."""
    trainer, checkpointer = managed(out, keep="latest:2")

    with pytest.raises(PolicyError):
        managed_again(trainer, keep="bets:3")

    assert trainer.checkpointer is checkpointer
    trainer.train()
    assert [c.step for c in checkpointer.run.checkpoints] == [10, 12]


def test_attach_in_the_middle_of_a_training(out: Path) -> None:
    """What is being saved has its settings: it is refused while a training runs."""

    def attach(**_: Any) -> None:
        with pytest.raises(SettingsError, match="is training"):
            managed_again(trainer)

    trainer, checkpointer = managed(out, callbacks=[At(3, attach)])
    trainer.train()
    assert checkpointer.run.latest is not None and checkpointer.run.latest.step == 12


def test_attach_to_the_explicit_form(out: Path) -> None:
    """It is managed as it was made; options that are given count."""

    class Mine(ManagedTrainer, Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, keepstep={"keep": "latest:2"}, **kwargs)

    trainer: Any = stock(out, trainer_class=Mine)
    assert keepstep.attach(trainer).policy.rules == (Latest(2),)
    assert keepstep.attach(trainer, keep="latest:3").policy.rules == (Latest(3),)


@pytest.mark.parametrize("what", [None, 3, "trainer", torch.nn.Linear(1, 1), Trainer])
def test_attach_to_no_trainer(what: Any) -> None:
    """What is no Trainer is refused, with the way for training loops of one's own."""
    with pytest.raises(SettingsError, match=r"attach takes a transformers Trainer(.|\n)*keepstep\.Checkpointer"):
        keepstep.attach(what)


def test_attach_changes_no_other_trainer(out: Path) -> None:
    """attach changes one trainer, not its class."""
    managed(out)

    other = stock(out.with_name("other"))
    other.train()

    assert not isinstance(other, ManagedTrainer)
    assert not (out.with_name("other") / ".keepstep").exists()


def test_subclass_and_attach_are_the_same(out: Path) -> None:
    """The explicit form keeps what the attached form keeps."""

    class Mine(ManagedTrainer, Trainer):
        pass

    trainer = stock(out, trainer_class=Mine, eval_strategy="no", save_total_limit=2)
    trainer.train()

    assert [c.step for c in trainer.checkpointer.run.checkpoints] == [10, 12]


@pytest.mark.parametrize("given", ["best:3", {"kepe": "best:3"}], ids=["no dict", "unknown option"])
def test_wrong_options_of_the_explicit_form_are_named(out: Path, given: Any) -> None:
    """What `keepstep` of a ManagedTrainer can't take is an error that lists what it takes."""

    class Mine(ManagedTrainer, Trainer):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, keepstep=given, **kwargs)

    with pytest.raises(SettingsError, match=r"takes no .*(best:3|kepe)[\s\S]*keep, metric, mode"):
        stock(out, trainer_class=Mine, eval_strategy="no")


BEST_3_LATEST_2 = (Best(3), Latest(2))


@pytest.mark.parametrize(
    ("keep", "rules"),
    [
        ("best:3,latest:2", BEST_3_LATEST_2),
        (" Best:3 , LATEST:2 ", BEST_3_LATEST_2),
        ([Best(3), Latest(2)], BEST_3_LATEST_2),
        ((Best(3), Latest(2)), BEST_3_LATEST_2),
        (["best:3", "latest:2"], BEST_3_LATEST_2),
        ([Best(3), "latest:2"], BEST_3_LATEST_2),
        (["best:3,latest:2"], BEST_3_LATEST_2),
        (Latest(2), (Latest(2),)),
        ("latest:2", (Latest(2),)),
        ([Every(4)], (Every(4),)),
    ],
)
def test_keep(out: Path, keep: Any, rules: tuple[Any, ...]) -> None:
    """keep takes a spec, a rule, or several of both; they mean the same."""
    _, checkpointer = managed(out, keep=keep)

    assert checkpointer.policy.rules == rules


@pytest.mark.parametrize("keep", ["best:3,latest:2", [Best(3), Latest(2)]])
def test_keep_wins_over_the_limit(out: Path, keep: Any) -> None:
    """keep wins over save_total_limit, and its forms leave the same on disk."""
    scores = {2: 0.9, 4: 0.8, 6: 0.7, 8: 0.1, 10: 0.2, 12: 0.3}

    _, checkpointer = train(out, keep=keep, scores=scores, metric_for_best_model="accuracy", save_total_limit=1)

    assert [c.step for c in checkpointer.run.checkpoints] == [2, 4, 6, 10, 12]


@pytest.mark.parametrize(
    ("keep", "why"),
    [
        ("bets:3", "Did you mean 'best'"),
        ("best", "the number is missing"),
        ("best:0", "no whole number of 1 or more"),
        ("best:3,best:2", "stands twice"),
        ([Best(3), Best(2)], "stands twice"),
        (["best:3", Best(2)], "stands twice"),
        ("", "the retention policy is empty"),
        ([], "keep is empty"),
        (3, "keep takes rules or their text"),
        ([3], "keep takes rules or their text"),
        ([None], "keep takes rules or their text"),
        ({"best": 3}, "keep takes rules or their text"),
        (Best, "keep takes rules or their text"),
    ],
)
def test_wrong_keep(out: Path, keep: Any, why: str) -> None:
    """keep that can't be understood is refused at attach, not at the first save."""
    with pytest.raises(PolicyError, match=why):
        managed(out, keep=keep)


def test_keep_the_best_without_evaluation(out: Path) -> None:
    """A rule that ranks where nothing is evaluated is refused at attach."""
    with pytest.raises(PolicyError, match="ranks checkpoints, but no metric is named"):
        managed(out, keep="best:3", eval_strategy="no")


SECRET = "hf_" + "aBcDeFgHiJkLmNoPqRsTuVwXyZ012345"


def test_hub_token(out: Path) -> None:
    """hub_token never lands in a committed checkpoint, and the trainer has it still."""
    trainer, _ = train(out, hub_token=SECRET, save_total_limit=1, callbacks=[TrainerCallback()])

    found = [name for name, data in files(out).items() if SECRET.encode() in data]
    assert found == []
    assert trainer.args.hub_token == SECRET
    stored = torch.load(out / "checkpoint-12" / "training_args.bin", weights_only=False)
    assert stored.hub_token is None
    assert stored.save_total_limit == 1, "the rest is what the user gave"


@pytest.mark.long
def test_hub_token_under_stock(out: Path) -> None:
    """hub_token: stock writes it into every checkpoint."""
    crash(out, after=2, attached=False, hub_token=SECRET)

    assert SECRET.encode() in (out / "checkpoint-2" / "training_args.bin").read_bytes()


def test_trainer_state_names_the_best_for_stock_tools(out: Path) -> None:
    """The best checkpoint stands in trainer_state.json, where stock tools look for it."""
    scores = {2: 0.9, 4: 0.8, 6: 0.95, 8: 0.1, 10: 0.2, 12: 0.3}

    train(out, scores=scores, metric_for_best_model="accuracy")

    states = {step: json.loads((out / f"checkpoint-{step}/trainer_state.json").read_text()) for step in (4, 6, 12)}
    best = {step: Path(state["best_model_checkpoint"]).name for step, state in states.items()}
    assert best == {4: "checkpoint-2", 6: "checkpoint-6", 12: "checkpoint-6"}
