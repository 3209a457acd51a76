"""Tests of `keepstep simulate`: the textbook answer, plots, and what it refuses."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import pytest

from keepstep.cli.commands.simulate import simulate
from keepstep.cli.drawing.plotting import bar, columns
from tests.cli.conftest import Call

TEXTBOOK = ["--steps", "10000", "--save-every", "500", "--eval-every", "500", "--limit", "3", "--params", "13B"]
SMALL = ["--steps", "100", "--save-every", "10"]


def test_the_textbook_question(call: Call) -> None:
    shown = call("simulate", *TEXTBOOK, "--crash-at", "3000").stdout
    end = shown[shown.index("Crash after step 3,000") :]
    on_disk = [line.split()[2] for line in end.splitlines() if line.startswith("  on disk")]
    assert on_disk == ["checkpoint-1500", "checkpoint-2000", "checkpoint-2500", "checkpoint-3000"]
    assert "resume from  checkpoint-3000" in end
    assert "deploy       checkpoint-2000" in end
    assert "They differ because recovery asks how far the training came, and quality how good it was" in end
    assert "Had the crash come before the save of step 3000 was committed, step 2500" in end
    assert "500: rank 4 of 4 by eval_loss; not among the best 3, not the newest" in shown
    assert "312 GB" in shown


def test_the_textbook_question_is_in_the_help(call: Call) -> None:
    shown = call("simulate", "--help").stdout
    assert "keepstep simulate --steps 10000 --save-every 500 --eval-every 500 --limit 3 --params 13B" in shown
    assert simulate.help is not None


def test_json_has_every_step(call: Call) -> None:
    found = json.loads(call("simulate", *TEXTBOOK, "--crash-at", "3000", "--format", "json").stdout)
    assert [save["step"] for save in found["saves"]] == [500, 1000, 1500, 2000, 2500, 3000]
    assert found["end"]["on_disk"] == [1500, 2000, 2500, 3000]
    assert (found["end"]["resume"], found["end"]["deploy"], found["end"]["lost_steps"]) == (3000, 2000, 0)
    assert found["saves"][3]["bytes_during_save"] == 4 * found["saves"][0]["bytes"]


def test_without_evaluation_the_newest_stay_and_that_is_said(call: Call) -> None:
    result = call("simulate", *SMALL, "--limit", "3", "--crash-at", "57")
    assert "nothing is evaluated" in result.stderr
    assert "latest:3 keeps the newest 3" in result.stdout or "latest 3" in result.stdout
    assert "resume from  checkpoint-50" in result.stdout
    assert "(7 steps)" in result.stdout
    assert "nothing is ranked" in result.stdout


def test_a_crash_before_the_first_save(call: Call) -> None:
    result = call("simulate", *SMALL, "--limit", "3", "--crash-at", "5")
    assert result.exit_code == 0
    assert "nothing: start anew" in result.stdout


def test_a_file_as_curve(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("step,eval_wer\n10,0.5\n20,0.3\n30,nan\n40,0.4\n")
    schedule = ["--steps", "50", "--save-every", "10", "--eval-every", "10", "--keep", "best:1,latest:1"]
    found = call("simulate", *schedule, "--metric", tmp_path / "c.csv", "--format", "json")
    assert json.loads(found.stdout)["end"]["on_disk"] == [20, 50]
    assert json.loads(found.stdout)["metric"] == "eval_wer"


def test_missing_values_are_said(call: Call, tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("step,eval_loss\n10,0.5\n")
    evaluated = ["--eval-every", "10", "--limit", "1", "--metric", str(tmp_path / "c.csv")]
    assert "no value at 9 of 10 evaluations" in call("simulate", *SMALL, *evaluated).stderr
    (tmp_path / "c.csv").write_text("step,eval_loss\n11,0.5\n")
    result = call("simulate", *SMALL, *evaluated)
    assert result.exit_code == 2
    assert "no value at any evaluated step" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["--limit", "0"], "not in the range"),
        (["--keep", ""], "policy is empty"),
        (["--keep", "best:2"], "add --eval-every"),
        (["--metric", "u-shape"], "need --eval-every"),
        (["--mode", "max"], "need --eval-every"),
        (["--eval-every", "10", "--metric", "nowhere.csv"], "neither a file nor a shape"),
        (["--crash-at", "101"], "beyond the last step"),
        (["--crash-at", "0"], "not in the range"),
        (["--params", "1B", "--size", "1GB"], "give one"),
        (["--size", "100"], "a bare number is not a size"),
        (["--step-time", "99999999999d"], "thousands of years"),
    ],
)
def test_wrong_usage_is_2(call: Call, arguments: list[str], part: str) -> None:
    result = call("simulate", *SMALL, *arguments)
    assert result.exit_code == 2
    assert part in result.stderr


def test_a_picture_needs_matplotlib(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.cli.drawing.picture.find_spec", lambda _: None)
    result = call("simulate", *SMALL, "--limit", "2", "--png", tmp_path / "p.png")
    assert result.exit_code == 2
    assert 'pip install "keepstep[plot]"' in result.stderr


@pytest.mark.skipif(find_spec("matplotlib") is None, reason="needs matplotlib")
@pytest.mark.parametrize("more", [[], ["--eval-every", "10"], ["--size", "1GB", "--crash-at", "10"]])
def test_a_picture(call: Call, tmp_path: Path, more: list[str]) -> None:
    assert call("simulate", *SMALL, "--limit", "2", *more, "--png", tmp_path / "picture").exit_code == 0
    assert (tmp_path / "picture").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_columns_of_blocks() -> None:
    assert columns([1, 2, 2], [1, 2, 4], 10, 4, blocks=True) == ["  ░", "  ░", " ██", "███"]
    assert columns([1, 2, 2], [1, 2, 4], 10, 4, blocks=False) == ["  .", "  .", " ##", "###"]
    assert columns([1] * 100, [2] * 100, 10, 2, blocks=False) == ["." * 10, "#" * 10]
    assert columns([], [], 10, 4, blocks=True) == []


def test_bars() -> None:
    assert bar(5, 10, 10, blocks=False) == "#####"
    assert bar(0.001, 10, 10, blocks=True) == "█"
    assert bar(float("inf"), 10, 10, blocks=True) == "█" * 10
    assert bar(0, 10, 10, blocks=True) == bar(1, 0, 10, blocks=True) == ""
