"""Tests of `keepstep doctor`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.operations.doctor import RULES
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run
from tests.stock.written import run_of

SOUND = """\
import keepstep
args = SFTConfig("runs/a", save_total_limit=3, eval_strategy="steps", save_steps=100, eval_steps=100)
trainer = SFTTrainer(args=args)
keepstep.attach(trainer)
trainer.train(resume_from_checkpoint="auto")
"""
WRONG = """\
args = SFTConfig("runs/a", eval_strategy=when(),
    enable_jit_checkpoint=True,
    save_total_limit=1, metric_for_best_model="wer",
)
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sound.py").write_text(SOUND)
    (tmp_path / "wrong.py").write_text(WRONG)
    return tmp_path


def test_an_error_is_exit_code_1_with_the_line_the_reason_and_the_fix(folder: Path, call: Call) -> None:
    result = call("doctor", "wrong.py")

    assert result.exit_code == 1
    shown = " ".join(result.stdout.split())
    for part in (
        "wrong.py:1 (script)",
        "E306 enable_jit_checkpoint saves in the middle of a step wrong.py:2",
        "Why: On SIGTERM",
        "Fix: Set enable_jit_checkpoint=False",
        "W107 the metric's direction is guessed wrong wrong.py:3",
        "With keepstep.attach: a table of metrics",
        "eval_strategy=when() (line 1): E101, W102",
        "1 error, ",
    ):
        assert part in shown, part
    assert shown.index("Errors") < shown.index("Warnings") < shown.index("Not known")


def test_nothing_found_is_exit_code_0_and_says_what_is_not_known(folder: Path, call: Call) -> None:
    result = call("doctor", "sound.py")
    assert result.exit_code == 0
    assert "Nothing found by the rules that could be judged." in result.stdout
    assert "the time of a step (--step-time): W501" in " ".join(result.stdout.split())


@pytest.mark.parametrize("columns", ["40", "80", "200"])
def test_lines_fit_the_terminal(folder: Path, call: Call, columns: str) -> None:
    shown = call("doctor", "wrong.py", env={"COLUMNS": columns}).stdout
    texts = [line for line in shown.splitlines() if line.startswith("      ")]
    assert texts
    assert max(map(len, texts)) <= int(columns)


def test_json(folder: Path, call: Call) -> None:
    result = call("doctor", "wrong.py", "sound.py", "--format", "json")

    assert result.exit_code == 1
    shown = json.loads(result.stdout)
    assert shown["ok"] is False
    wrong, sound = shown["reports"]
    assert (wrong["ok"], sound["ok"]) == (False, True)
    first = wrong["findings"][0]
    assert {key: first[key] for key in ("id", "severity", "path", "line", "where")} == {
        "id": "E306", "severity": "error", "path": "wrong.py", "line": 2, "where": "wrong.py:2",
    }  # fmt: skip
    assert set(first) == {
        "id", "severity", "title", "what", "why", "fix", "where", "path", "line", "cell", "unless", "values",
    }  # fmt: skip
    assert first["values"] == [
        {"name": "enable_jit_checkpoint", "value": True, "source": "literal", "where": "wrong.py:2", "unless": None}
    ]
    assert first["unless"] is None
    assert wrong["unread"] == ["eval_strategy=when() (line 1)"]
    assert {"missing", "rules"} == set(wrong["not_judged"][0])


def test_ignore(folder: Path, call: Call) -> None:
    result = call("doctor", "wrong.py", "--ignore", "e306", "--ignore", "W107")
    assert result.exit_code == 0
    assert "E306  " not in result.stdout
    assert "Ignored: W107, E306" in result.stdout


PARSED = """\
import argparse
from transformers import TrainingArguments
parser = argparse.ArgumentParser()
parser.add_argument("--save_steps", type=int, default=500)
parser.add_argument("--limit", type=int, default=1)
args = parser.parse_args()
TrainingArguments("out", save_steps=args.save_steps, save_total_limit=args.limit, eval_strategy="steps",
    eval_steps=250, load_best_model_at_end=True)
"""


def test_what_stands_behind_the_dashes_is_the_trainings_own(folder: Path, call: Call) -> None:
    (folder / "train.py").write_text(PARSED)

    default = call("doctor", "train.py")
    assert default.exit_code == 0
    shown = " ".join(default.stdout.split())
    assert (
        "train.py:5: save_total_limit=1 with a metric: at the end only the best stays, unless the command line" in shown
    )
    assert "Known from: save_total_limit=1 (default, train.py:5)." in shown

    told = call("doctor", "train.py", "--ignore", "W204", "--", "--save_steps", "300", "--limit=2", "--ignore", "x")
    assert told.exit_code == 1
    shown = " ".join(told.stdout.split())
    assert "train.py:7 (script, with the arguments of the command line)" in shown
    assert "save_steps=300, no multiple of eval_steps=250. Known from: save_steps=300 (command line)" in shown
    assert "--ignore, which is no option of this" in shown


def test_a_shell_script_is_read_for_what_it_starts(folder: Path, call: Call) -> None:
    (folder / "train.py").write_text(PARSED)
    (folder / "run.sh").write_text("#!/bin/sh\nSTEPS=300\npython train.py \\\n  --save_steps $STEPS\n")
    result = call("doctor", "run.sh", "--format", "json")
    assert result.exit_code == 1
    (report,) = json.loads(result.stdout)["reports"]
    assert (report["target"], report["command"]) == ("train.py:7", "run.sh:3")
    first = report["findings"][0]
    assert (first["id"], first["where"], first["unless"]) == ("E103", "run.sh:4", None)
    assert {"name": "save_steps", "value": 300, "source": "command line", "where": "run.sh:4", "unless": None} in (
        report["settings"]
    )
    assert {"name": "save_total_limit", "value": 1, "source": "default", "where": "train.py:5", "unless": None} in (
        report["settings"]
    )


def test_the_help_shows_how_to_give_them(call: Call) -> None:
    shown = " ".join(call("doctor", "--help").stdout.split())
    assert "[-- ARGUMENTS...]" in shown
    assert "keepstep doctor train.py -- --save_steps 500" in shown
    assert "keepstep doctor run.sh" in shown


def test_it_exits_with_what_it_found_after_a_quarantine_too(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.4}, keep="all")
    flip(run.path / "checkpoint-2" / "model.safetensors")
    assert call("verify", run.path).exit_code == 1
    assert call("doctor", run.path).exit_code == 1
    assert call("verify", run.path, "--quarantine").exit_code == 1
    after = call("doctor", run.path)
    assert after.exit_code == 1
    assert "step 2 failed its check and is in quarantine: step 1 is the newest now" in " ".join(after.stdout.split())


@pytest.mark.parametrize("id_", sorted(RULES))
def test_explain(call: Call, id_: str) -> None:
    shown = " ".join(call("doctor", "--explain", id_.lower()).stdout.split())
    rule = RULES[id_]
    for part in (f"{id_} {rule.title}", rule.what, rule.why, rule.fix, rule.solved):
        assert part in shown


def test_explain_as_json(call: Call) -> None:
    shown = json.loads(call("doctor", "--explain", "W203", "--format", "json").stdout)
    assert shown["with_keepstep"] == RULES["W203"].solved


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--explain", "E204"], 2, "Did you mean W204?"),
        (["--ignore", "W999", "sound.py"], 2, "there is no rule 'W999'"),
        ([], 2, "Give a script"),
        (["sound.py", "--params", "13B", "--checkpoint-size", "1GB"], 2, "give one"),
        (["sound.py", "--lora-r", "8"], 2, "--lora-r needs --params"),
        (["none.py"], 8, "No such file or directory: none.py"),
        (["."], 3, "is no run directory"),
        (["broken.py"], 2, "broken.py:1: "),
    ],
)
def test_wrong_usage_is_a_line_and_a_way_out(
    folder: Path, call: Call, arguments: list[str], code: int, said: str
) -> None:
    (folder / "broken.py").write_text("x = (\n")
    result = call("doctor", *arguments)
    assert result.exit_code == code
    assert said in result.stderr
    assert result.stdout == ""


def test_sizes_and_times_let_more_rules_judge(folder: Path, call: Call) -> None:
    options = ["--params", "13B", "--step-time", "1s", "--grace", "30s", "--mtbf", "30s"]
    shown = call("doctor", "wrong.py", *options).stdout
    assert "E503" in shown
    assert "W501" in shown
    smaller = call("doctor", "wrong.py", *options, "--lora-r", "8").stdout
    assert "E503" not in smaller


def test_every_run_below_a_directory(tmp_path: Path, call: Call) -> None:
    make_run(tmp_path / "sound", {1: 0.3, 2: 0.2})
    run_of(tmp_path / "torn", [2, 4])
    (tmp_path / "torn" / "checkpoint-4" / "trainer_state.json").unlink()
    newer = make_run(tmp_path / "broken", {1: 0.3}).path / ".keepstep" / "run.json"
    newer.write_bytes(b'{"format": 2, "run_id": "0", "who": "knows"}')
    shown = call("doctor", "--root", tmp_path)
    assert shown.exit_code > 0 and "E702" in shown.stdout and "1 error" in shown.stdout.splitlines()[-1]
    lines = [json.loads(line) for line in call("doctor", "--root", tmp_path, "--format", "json").stdout.splitlines()]
    by_name = {Path(line["run"]).name: line for line in lines}
    assert by_name["sound"]["result"]["ok"] and "result" not in by_name["broken"]
    assert by_name["torn"]["exit_code"] == 1
    assert [f["id"] for f in by_name["torn"]["result"]["reports"][0]["findings"]] == ["E702"]
    assert shown.exit_code == max(line["exit_code"] for line in lines)
    quiet = call("doctor", "--root", tmp_path, "--ignore", "E702", "--format", "json").stdout.splitlines()
    assert [line["exit_code"] for line in map(json.loads, quiet) if line["run"].endswith("torn")] == [0]
    alone = call("doctor", "train.py", "--root", tmp_path)
    assert (alone.exit_code, "leave the other targets out" in alone.stderr) == (2, True)


def test_a_run(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.4}, keep="latest:1")
    result = call("doctor", run.path)
    assert result.exit_code == 0
    assert "(run)" in result.stdout
    assert "W204" in result.stdout
    assert "Not known" not in result.stdout


def test_hostile_names_have_no_power_over_the_terminal(folder: Path, call: Call) -> None:
    (folder / "evil.py").write_text('SFTConfig("runs/\\x1b[31m", hub_token="t",metric_for_best_model="wer\\x1b]x")\n')
    assert "\x1b" not in call("doctor", "evil.py").stdout
