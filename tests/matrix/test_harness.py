"""The judgement of rows, with endings made up; and rows that are broken on purpose."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("transformers") is None or find_spec("peft") is None:
    pytest.skip("needs the hf extra and peft", allow_module_level=True)

import torch
from torch import nn
from transformers import TrainerCallback

from tests.matrix import __main__ as command
from tests.matrix import table
from tests.matrix.inputs import TEXT
from tests.matrix.playing import row
from tests.matrix.subject import Subject
from tests.matrix.subjects import GROUPS
from tests.matrix.values import difference, shake, share, trained
from tests.matrix.verdict import Ending, Row, Share, Verdict, judge

ALL, PART = Share(10, 10), Share(9, 10, ("model.head",))
EXACT = Ending(ALL, ALL, ALL, level="exact")
CASES = {
    "all came back": (EXACT, Verdict.EXACT),
    "all came back, and the receipt doubts it": (replace(EXACT, level="approximate"), Verdict.DOUBTED),
    "all came back, without a receipt": (replace(EXACT, level=None), Verdict.DOUBTED),
    "a part came back, and it is not said": (replace(EXACT, resumed=PART), Verdict.WRONG),
    "a part came back, and it is said": (replace(EXACT, resumed=PART, level="approximate"), Verdict.LABELLED),
    "a part of the best, and it is not said": (replace(EXACT, best=PART), Verdict.WRONG),
    "a part of the best, and it is said": (replace(EXACT, best=PART, warned=("WARNING: in part",)), Verdict.LABELLED),
    "a part of the optimizer's state": (replace(EXACT, state=PART), Verdict.WRONG),
    "another course": (replace(EXACT, off="losses off by 1"), Verdict.WRONG),
    "no number": (replace(EXACT, off="losses off by NaN", level="approximate"), Verdict.FAILS),
    "refused": (Ending(Share(0, 10), refusal="it does not fit"), Verdict.REFUSED),
    "an error": (Ending(error="KeyError: 'momentum'"), Verdict.FAILS),
}


@pytest.mark.parametrize("case", CASES)
def test_judgement(case: str) -> None:
    ending, verdict = CASES[case]
    assert judge(ending) is verdict


def test_a_share_is_never_rounded_up_to_all() -> None:
    assert str(Share(99_999_999, 100_000_000)) == "99.9 %"
    assert str(Share(5, 5)) == "100 %"
    assert str(Share(0, 1, error="RuntimeError")) == "raises"


def test_values_are_compared_by_their_bits() -> None:
    saved = {"a": torch.zeros(3), "b": torch.tensor(1.0), "c": torch.tensor([float("nan")])}
    assert share(saved, {name: tensor.clone() for name, tensor in saved.items()}).whole
    assert share(saved, {**saved, "a": -torch.zeros(3)}) == Share(2, 5, ("a",))
    assert share(saved, {**saved, "b": saved["b"].double()}) == Share(4, 5, ("b",))
    assert share(saved, {"a": saved["a"]}).back == 3


def test_courses_are_compared_without_what_a_clock_measured() -> None:
    weights, log = (
        {"a": torch.ones(2)},
        [{"step": 1, "loss": 2.0, "train_runtime": 1.0}, {"step": 1, "train_loss": 2.0}],
    )
    other = [{"step": 1, "loss": 2.0, "train_runtime": 3.0}, {"step": 1, "train_loss": 1.0}]
    assert difference((weights, log), (weights, log)) == ""
    assert difference((weights, log), (weights, other)) == "log differs"
    assert difference((weights, log), (weights, other), "train_loss") == ""
    moved = ({"a": torch.tensor([1.0, 1.5])}, [{"step": 1, "loss": 2.25}])
    assert difference((weights, log), moved) == "weights off by 0.5, losses off by 0.2"
    lost = ({"a": torch.tensor([1.0, float("nan")])}, [{"step": 1, "loss": float("nan")}])
    assert difference((weights, log), lost) == "weights off by NaN, losses off by NaN"


def test_nothing_is_by_chance_what_it_was_saved_as() -> None:
    """Zeros and ones, with which much is built in every life."""
    models = []
    for seed in (1, 2):
        model: Any = nn.Sequential(nn.LayerNorm(4), nn.Linear(4, 4), nn.BatchNorm1d(4))
        nn.init.zeros_(model[1].bias)
        shake(model, seed)
        models.append({name: tensor for name, tensor in trained(model).items() if "batches" not in name})
    assert share(models[0], models[1]).back == 0


class Moving(TrainerCallback):
    """It changes one value of the model that a training begins with, where that goes on from a checkpoint."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **_: Any) -> None:
        if state.global_step:
            with torch.no_grad():
                next(model.parameters())[0, 0] += 1


def _called(name: str) -> Subject:
    return next(subject for subjects in GROUPS.values() for subject in subjects if subject.name == name)


@pytest.mark.training
def test_a_value_that_did_not_come_back_is_seen() -> None:
    played = row("", replace(_called("Llama, tied"), callbacks=(Moving,)), control=False)
    assert played.ours.resumed is not None and not played.ours.resumed.whole
    assert played.ours.resumed.lost == ("model.embed_tokens.weight",)
    assert played.verdict is not Verdict.EXACT


@pytest.mark.training
def test_a_model_that_can_not_be_trained_fails() -> None:
    def build(first: bool) -> Any:
        raise ValueError("no such model")

    with pytest.raises(ValueError, match="no such model"):
        row("", Subject("broken", build, TEXT))


def test_what_a_library_lacks_is_left_out() -> None:
    subject = Subject("newer", lambda first: None, TEXT, ("transformers.NoSuchConfig",))
    played = row("", subject)
    assert played.missing == "transformers.NoSuchConfig"
    assert table.line(played).startswith("left out  newer")


def test_the_page_tells_what_is_not_exact() -> None:
    refused = Row("Adapters", "a | b", Ending(PART, off="losses off by 1"), Ending(PART, ALL, refusal="it does <not>"))
    page = table.as_markdown([Row("Adapters", "whole", EXACT, EXACT, killed=True), refused])
    assert "1 exact, 1 refused. The stock Trainer resumes 1 of 2 exactly, and has the best at the end of 1." in page
    assert "| whole (SIGKILL) | 100 % | 100 % | exact | 100 % | 100 % | exact |" in page
    assert "| 90.0 % |  | losses off by 1 | 90.0 % | 100 % | refused: it does &lt;not> |" in page


@pytest.mark.training
def test_the_command_plays_what_it_is_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main(["--only", "Llama, tied", "--format", "json"]) == 0
    printed = capsys.readouterr()
    assert [one["name"] for one in json.loads(printed.out)] == ["Llama, tied"]
    assert "1 rows: 1 exact" in printed.err


def test_the_command_knows_its_rows(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["--only", "no such row"])
    assert "no row is called no such row" in capsys.readouterr().err
