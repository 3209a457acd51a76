"""The judgement of situations, with endings made up; one situation that is broken on purpose; one played to its end."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("transformers") is None or find_spec("trl") is None:
    pytest.skip("needs the hf extra and trl", allow_module_level=True)

from tests.cases import __main__ as command
from tests.cases import table
from tests.cases.facts import Gap, differences
from tests.cases.told import GROUPS, situation_called
from tests.cases.verdict import KILLED, Ending, Row, Trial, Verdict, row

TRAINED: dict[str, Any] = {
    "weights": "abc", "step": 10, "epoch": 2.0, "max steps": 10, "best metric": None, "best step": None,
    "best path": None, "log": [{"loss": 4.0, "step": 9}, {"train_loss": 4.5, "step": 10}], "receipt": None,
}  # fmt: skip
DEAD = Ending(KILLED)
FAILED = Ending(1, None, "ValueError: no")
OFF = {"weights": "xyz", "log": [{"loss": 3.0, "step": 9}]}
LOG_OFF = {"log": [{"loss": 4.0, "step": 9}, {"train_loss": 2.0, "step": 10}]}


def done(level: str | None = None, **changed: Any) -> Ending:
    """A process that trained to the end, with a receipt of that level."""
    receipt = {"level": level, "why": [] if level == "exact" else ["a reason"]} if level else None
    return Ending(0, {**TRAINED, "receipt": receipt, **changed})


def resumed(level: str | None = None, **changed: Any) -> Trial:
    """A training that was left alone, and one that was killed and resumed."""
    return Trial(done(), (DEAD, done(level, **changed)))


STOCK = resumed(**LOG_OFF)
"""What the stock Trainer does at its best: its log's last line forgets what was before the kill."""
CASES: dict[str, tuple[Trial, Trial, Verdict]] = {
    "the same bits": (resumed("exact"), STOCK, Verdict.EXACT),
    "the same bits, where stock fails": (resumed("exact"), Trial(done(), (DEAD, FAILED)), Verdict.EXACT),
    "the same bits, and a receipt that promises less": (resumed("equivalent"), STOCK, Verdict.LABELLED),
    "other weights, as stock, and said": (resumed("approximate", **OFF), resumed(**OFF), Verdict.LABELLED),
    "other weights, as stock, and not said": (resumed("exact", **OFF), resumed(**OFF), Verdict.WRONG),
    "other weights, where stock has the same": (resumed("exact", **OFF), STOCK, Verdict.WORSE),
    "other weights, said, where stock has the same": (resumed("approximate", **OFF), STOCK, Verdict.WORSE),
    "another log, as stock, and not said": (resumed("exact", **LOG_OFF), STOCK, Verdict.WRONG),
    "fails where stock goes on": (Trial(done(), (DEAD, FAILED)), STOCK, Verdict.WORSE),
    "fails before stock does": (Trial(FAILED), Trial(done(), (DEAD, FAILED)), Verdict.WORSE),
    "fails where it was to be killed": (Trial(done(), (FAILED,)), STOCK, Verdict.WORSE),
    "both fail at the resume": (Trial(done(), (DEAD, FAILED)), Trial(done(), (DEAD, FAILED)), Verdict.AS_STOCK),
    "both fail from the start": (Trial(FAILED), Trial(FAILED), Verdict.AS_STOCK),
    "goes on where stock fails": (resumed("approximate", **OFF), Trial(done(), (DEAD, FAILED)), Verdict.LABELLED),
    "goes on where stock fails, without a receipt": (Trial(done()), Trial(FAILED), Verdict.BETTER),
    "left alone, as stock": (Trial(done()), Trial(done()), Verdict.AS_STOCK),
    "left alone, another course than stock's": (Trial(done(**OFF)), Trial(done()), Verdict.WORSE),
    "left alone, another course than stock's, which itself resumes badly": (
        Trial(done(**OFF), (DEAD, done("approximate"))), resumed(**OFF), Verdict.WORSE,
    ),
    "resumed exactly, on another course than stock's": (
        Trial(done(**OFF), (DEAD, done("exact", **OFF))), STOCK, Verdict.WORSE,
    ),
    "the later of two that are equally good": (
        Trial(done(**{"weights": "xyz", "best metric": 0.5, "best step": 8})),
        Trial(done(**{"best metric": 0.5, "best step": 4})),
        Verdict.WORSE,
    ),
    "less good than stock's best": (
        Trial(done(**{"weights": "xyz", "best metric": 0.4, "best step": 8})),
        Trial(done(**{"best metric": 0.5, "best step": 4})),
        Verdict.WORSE,
    ),
    "a best that stock does not look for": (
        Trial(done(**{"best metric": 4.0, "best step": 8})), Trial(done()), Verdict.AS_STOCK,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_verdict(name: str) -> None:
    ours, stock, verdict = CASES[name]
    assert row("x", "fast", ours, stock, {}).verdict is verdict


@pytest.mark.parametrize(
    ("ours", "stock", "verdict"),
    [([8], [], Verdict.WORSE), ([8], [8], Verdict.AS_STOCK), ([], [8], Verdict.BETTER), ([], [], Verdict.AS_STOCK)],
)
def test_what_is_wanted_counts_for_both(ours: list[int], stock: list[int], verdict: Verdict) -> None:
    """A fact whose right value is known: files that are lacking."""
    assert row("x", "fast", Trial(done(lacking=ours)), Trial(done(lacking=stock)), {"lacking": []}).verdict is verdict


def test_a_row_says_what_both_did() -> None:
    found = row("x", "fast", resumed("exact", **OFF), Trial(done(), (DEAD, FAILED)), {})
    assert found.ours == "weights: abc and xyz; log: loss from step 9 on (the receipt says exact)"
    assert found.stock == "resume fails: ValueError: no"
    labelled = row("x", "fast", resumed("approximate", **OFF), resumed(**OFF), {})
    assert labelled.ours.endswith("(approximate: a reason)")


def test_values_that_a_clock_measured_are_no_difference() -> None:
    from tests.cases.facts import _timeless

    assert _timeless({"loss": 1.0, "eval_runtime": 3.0, "train_samples_per_second": 2.0}) == {"loss": 1.0}
    assert differences({"log": [], "receipt": 1}, {"log": [], "receipt": 2}) == {}
    assert list(Gap) == sorted(Gap)


def test_the_command_fails_for_a_row_that_is_worse_and_for_no_other(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A situation in which keepstep loses what stock keeps, beside one in which the receipt is wrong."""
    played: list[Row] = []
    monkeypatch.setattr(command, "play", lambda *_: iter(played))
    name = next(iter(GROUPS.values()))[0].name
    wrong = row(name, "fast", resumed("exact", **OFF), resumed(**OFF), {})
    played.append(wrong)
    assert command.main(["--only", name, "--engine", "fast"]) == 0
    assert "1 WRONG" in capsys.readouterr().out

    played.append(replace(row(name, "stock", Trial(done(), (DEAD, FAILED)), STOCK, {}), seconds=1.0))
    assert command.main(["--only", name]) == 1
    told = capsys.readouterr().out
    assert "WORSE" in told and "ours:  resume fails: ValueError: no" in told

    assert command.main(["--only", name, "--format", "json"]) == 1
    assert [one["verdict"] for one in json.loads(capsys.readouterr().out)] == ["WRONG", "WORSE"]
    assert command.main(["--only", name, "--format", "markdown"]) == 1
    page = capsys.readouterr().out
    assert page.startswith("<!-- Generated by") and "| **WRONG**: weights: abc and xyz" in page
    assert "**WORSE**: resume fails: ValueError: no" in page


def test_every_situation_has_a_name_of_its_own_and_a_sentence() -> None:
    every = [situation for told in GROUPS.values() for situation in told]
    assert len({one.name for one in every}) == len(every)
    assert all(one.tells and one.lives(left_alone=True) and situation_called(one.name) is one for one in every)
    assert all("|" not in one.name for one in every)


def test_the_page_names_every_situation_that_was_played() -> None:
    rows = [Row(one.name, "fast", Verdict.EXACT, "", "") for told in GROUPS.values() for one in told]
    page = table.as_markdown(GROUPS, rows, ["fast"])
    assert all(f"**{one.name}**" in page for one in rows) and all(f"## {title}" in page for title in GROUPS)


@pytest.mark.training
@pytest.mark.parametrize("engine", command.ENGINES)
@pytest.mark.quick(1)
def test_a_situation_is_played_to_its_end(engine: str) -> None:
    from tests.cases.playing import rows_of

    (played,) = rows_of(situation_called("a save that writes by args.output_dir"), [engine])
    assert (played.verdict, played.engine, played.ours) == (Verdict.EXACT, engine, "as it should be")
    assert played.stock.startswith("log: ")
