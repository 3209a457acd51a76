"""`keepstep evaluate`: real commands that end well, badly, late or never, beside trainings and prunes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.operations.evaluating import evaluate as evaluating
from keepstep.operations.evaluating.child import metrics_in
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.small_run import make_checkpointer, make_run, save, steps

GOOD = """
import json, sys
step = int(sys.argv[1].rsplit("-", 1)[1])
print("loading")
print(json.dumps({"eval_loss": 10 - step, "eval_f1": step / 10, "name": "x"}))
print("done")
"""
BAD = """
import sys
print("no room on the card", file=sys.stderr)
sys.exit(3 if sys.argv[1].endswith("-4") else print('{"a": 1}'))
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", 2, 4, 6)


def python(code: str) -> list[str]:
    return [sys.executable, "-c", code, "{}"]


def test_metrics_are_recorded_and_rank(run: Run, call: Call) -> None:
    before = Run.open(run.path).best
    result = call("evaluate", run.path, "--jobs", "2", "--", *python(GOOD))
    assert result.exit_code == 0, result.output
    found = {c.step: c.metrics for c in Run.open(run.path).checkpoints}
    assert {step: (m["eval_loss"], m["eval_f1"]) for step, m in found.items()} == {
        2: (8, 0.2),
        4: (6, 0.4),
        6: (4, 0.6),
    }
    assert before is not None
    assert "checkpoint-6: eval_loss 4, eval_f1 0.6" in result.stdout
    assert not list((run.path / ".keepstep" / "readers").glob("*.json"))


def test_only_what_is_named_or_pending(tmp_path: Path, call: Call) -> None:
    checkpointer = make_checkpointer(tmp_path / "run")
    checkpointer.begin("auto")
    save(checkpointer, 2, 0.5)
    save(checkpointer, 4)
    checkpointer.close()
    path = tmp_path / "run"
    shown = call("evaluate", path, "--pending", "--dry-run", "--", "eval", "--model={}/x")
    assert shown.stdout == f"eval --model={path}/checkpoint-4/x\n"
    assert call("evaluate", path, "--pending", "--format", "json", "--", *python(GOOD)).exit_code == 0
    assert "nothing is to be evaluated" in call("evaluate", path, "--pending", "--", *python(GOOD)).stderr
    named = call("evaluate", path, "best", "--format", "json", "--", *python(GOOD))
    lines = [json.loads(line) for line in named.stdout.splitlines()]
    assert [(line["step"], line["ok"], line["metrics"]["eval_loss"]) for line in lines] == [(2, True, 8.0)]


def test_one_that_fails_is_named_and_the_others_go_on(run: Run, call: Call) -> None:
    result = call("evaluate", run.path, "--", *python(BAD))
    assert result.exit_code == 1
    assert "checkpoint-4: FAILED, exit code 3" in result.stdout
    assert "no room on the card" in result.stderr
    assert "eval_loss, by which the run ranks, is not among them" in result.stderr
    assert {c.step for c in Run.open(run.path).checkpoints if "a" in c.metrics} == {2, 6}


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("print('fine')", "printed no line that is a JSON object"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "was ended by SIGKILL"),
        ("import time; time.sleep(600)", "took longer than 0.5 s, and was ended"),
    ],
)
def test_what_gives_no_metrics_says_why(run: Run, call: Call, code: str, problem: str) -> None:
    result = call("evaluate", run.path, "latest", "--timeout", "0.5s", "--", *python(code))
    assert (result.exit_code, problem in result.stdout) == (1, True), result.output


@pytest.mark.parametrize(
    ("words", "said"),
    [((), "there is no command"), (("--",), "there is no command"), (("--", "eval"), "has no {}"),
     (("--timeout", "10", "--", "eval", "{}"), "--timeout")],
)  # fmt: skip
def test_what_can_not_be_meant_is_named(run: Run, call: Call, words: tuple[str, ...], said: str) -> None:
    result = call("evaluate", run.path, *words)
    assert (result.exit_code, said in result.stderr) == (2, True), result.output


def test_a_command_that_is_not_there(run: Run, call: Call) -> None:
    result = call("evaluate", run.path, "latest", "--", "/nowhere/eval", "{}")
    assert (result.exit_code, "can't be started: No such file" in result.stdout) == (1, True)


def test_the_last_json_object_counts() -> None:
    assert metrics_in('{"a": 1}\nx\n{"a": 2, "b": true, "c": NaN}\n[1]\n{broken\n')["a"] == 2
    assert metrics_in("") == {}


def test_what_is_being_evaluated_is_not_pruned_beside(run: Run, call: Call) -> None:
    """The training, or a prune, that runs beside: what is read stays until it is done."""
    prune = [sys.executable, "-m", "keepstep", "prune", str(run.path), "--keep", "latest:1", "--yes"]
    code = (
        f"import subprocess; subprocess.run({prune!r}, check=True, capture_output=True); print('{{\"eval_loss\": 1}}')"
    )
    result = call("evaluate", run.path, "2", "--", *python(code))
    assert result.exit_code == 0, result.output
    assert steps(Run.open(run.path)) == [2, 6]


def test_beside_a_training(run: Run, call: Call) -> None:
    """The lock is the training's; it sees what was recorded at its next look."""
    checkpointer = make_checkpointer(run.path)
    checkpointer.begin("auto")
    assert call("evaluate", run.path, "2", "--", *python("print('{\"eval_loss\": -5}')")).exit_code == 0
    save(checkpointer, 8, 0.5)
    assert checkpointer.run.best is not None
    assert checkpointer.run.best.step == 2
    checkpointer.close()


def test_whoever_breaks_off_ends_what_runs_and_keeps_what_is_recorded(run: Run, tmp_path: Path) -> None:
    code = "import sys, time; sys.argv[1].endswith('-2') or time.sleep(600); print('{\"eval_loss\": -5}')"
    work = evaluating.evaluate(run, run.checkpoints, python(code), jobs=3)
    first = next(work)
    work.close()
    assert first.checkpoint.step == 2
    assert Run.open(run.path).find("best").step == 2


def test_ctrl_c_ends_the_children(run: Run, tmp_path: Path) -> None:
    """SIGINT to the command alone: its children end too, and it exits with 130."""
    note = tmp_path / "pid"
    code = f"import os, time; open({str(note)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    os.mkfifo(note)
    words = [sys.executable, "-m", "keepstep", "evaluate", str(run.path), "latest", "--", *python(code)]
    with subprocess.Popen(words, stderr=subprocess.PIPE, start_new_session=True) as process:
        child = int(note.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)
