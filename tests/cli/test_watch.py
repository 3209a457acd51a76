"""Tests of `keepstep watch` and `keepstep ls --watch`: what a frame says, on every terminal, and how it ends."""

from __future__ import annotations

import json
import math
import re
import subprocess
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.cli.drawing.chart import curve_lines, limits, mark_cells
from keepstep.operations.seeing.watching import Watcher
from keepstep.run import History, Run
from tests.cli.conftest import Call
from tests.cli.terminals import keepstep, on_terminal
from tests.operations.runs import make_run, training, write


@pytest.fixture
def run(tmp_path: Path) -> Run:
    path = tmp_path / "run"
    with training(path, "best:1:full,latest:1") as checkpointer:
        history = History(checkpointer.run.store)
        history.begin(max_steps=400)
        for step in range(1, 101):
            history.log(step, None, {"loss": 5 - step / 50})
            if step % 20 == 0:
                checkpointer.save(Facts(step, metrics={"eval_loss": abs(step - 60) / 100}), write)
        history.end("failed")
    return Run.open(path)


def test_one_frame_into_a_pipe(run: Run, call: Call) -> None:
    shown = call("watch", run.path).stdout
    assert f"{run.path}  failed  step 100 of 400 (25%)" in shown
    assert "loss  3 at step 100" in shown
    chart = shown.splitlines()[shown.splitlines().index("loss  3 at step 100") + 1 :][:8]
    assert [line[0:4].strip() for line in (chart[0], chart[4])] == ["4.98", "3"]
    # A falling loss: the columns at the left are the higher ones, and the right edge is the lowest.
    assert chart[0].rstrip().endswith(("#", ".", ":")) and len(chart[0]) < len(chart[4])
    assert re.sub(" +", " ", chart[5]).strip() == ". . * . O"
    assert re.sub(" +", " ", chart[6]).strip() == "1 100"
    assert chart[7] == "* best  O kept  . removed"
    assert "best 1 of 1 by eval_loss" in shown
    assert "2.0 kB kept" in shown
    assert "step 80     1.0 kB freed" in shown


def test_into_a_pipe_each_event_is_a_line_until_the_training_ends(run: Run, tmp_path: Path) -> None:
    with training(run.path) as checkpointer:
        program = [str(keepstep(tmp_path)), "watch", str(run.path), "--interval", "0.1"]
        watching = subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert watching.stdout is not None
        shown = [watching.stdout.readline()]
        while "Last events" not in shown[-1]:
            shown.append(watching.stdout.readline())
        checkpointer.save(Facts(120, metrics={"eval_loss": 0.1}), write)
        while "committed   step 120" not in shown[-1]:
            shown.append(watching.stdout.readline())
    rest, errors = watching.communicate(timeout=60)
    assert (watching.returncode, errors) == (0, "")
    shown += rest.splitlines()
    assert "  training  step 100 of 400" in shown[0] and "  training  " not in shown[-1]
    assert sum("committed   step 120" in line for line in shown) == 1, "no line is drawn twice"
    assert "\x1b" not in "".join(shown)


def test_one_look_at_a_run_that_trains(run: Run, call: Call) -> None:
    with training(run.path):
        shown = call("watch", run.path, "--once")
    assert shown.exit_code == 0 and "  training  step 100" in shown.stdout.splitlines()[0]


def test_another_metric_and_json(run: Run, call: Call) -> None:
    document = json.loads(call("watch", run.path, "--format", "json").stdout)
    assert (document["state"], document["step"], document["max_steps"], document["metric"]) == (
        "failed", 100, 400, "loss",
    )  # fmt: skip
    assert len(document["curve"]["steps"]) == 100
    assert [row["step"] for row in document["checkpoints"]] == [60, 100]
    assert "eval_loss" not in call("watch", run.path, "--metric", "loss").stdout.split("Step")[0]


def test_a_metric_that_was_not_logged_is_said_with_those_that_were(run: Run, call: Call) -> None:
    history = History(run.store)
    history.begin(from_step=100, max_steps=400)
    history.log(110, None, {"loss": 2.0, "eval_loss": 1.0, "eval_runtime": 3.0, "odd": math.nan, "epoch": 0.5})
    assert "no metric 'unk\\x1b' was logged; there is loss, eval_loss, odd" in call(
        "watch", run.path, "--metric", "unk\x1b"
    ).stdout  # fmt: skip
    assert "no value of 'odd' is a finite number" in call("watch", run.path, "--metric", "odd").stdout
    document = json.loads(call("watch", run.path, "--metric", "unknown", "--format", "json").stdout)
    assert document["curve"]["steps"] == [] and document["metrics"] == ["loss", "eval_loss", "odd"]


def test_what_is_logged_once_at_the_end_is_no_curve(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: math.nan})
    history = History(run.store)
    history.begin(max_steps=60)
    summary = {"train_runtime": 0.4661, "train_loss": 1.5, "train_steps_per_second": 9.0, "total_flos": 1e9}
    history.log(60, 1.0, summary)
    history.end("finished")
    shown = call("watch", run.path).stdout
    assert "train_" not in shown and "total_flos" not in shown and "Nothing to draw was logged\n" in shown
    assert "train_runtime  0.4661 at step 60" in call("watch", run.path, "--metric", "train_runtime").stdout
    history = History(run.store)
    history.begin(from_step=60, max_steps=90)
    history.log(70, 1.0, {"train_loss": 1.25})
    assert "train_loss  1.25 at step 70" in call("watch", run.path).stdout, "logged along the way, it is a curve"


def test_a_run_is_training_while_its_lock_is_held(run: Run) -> None:
    watcher = Watcher(run)
    with training(run.path):
        assert watcher.look().activity == "training"
    history = History(run.store)
    assert watcher.look().activity == "failed"
    history.begin(from_step=100, max_steps=400)
    history.log(101, None, {"loss": 1.0})
    assert watcher.look().step == 101
    history.end("finished")
    assert watcher.look().activity == "finished"


def test_an_empty_run(tmp_path: Path, call: Call) -> None:
    shown = call("watch", make_run(tmp_path / "run", {}).path).stdout
    assert "new" in shown.splitlines()[0]
    assert "Nothing to draw was logged yet" in shown


def test_hostile_curves_are_drawn(tmp_path: Path, call: Call) -> None:
    run = make_run(tmp_path / "run", {1: math.nan})
    history = History(run.store)
    history.begin()
    for step, value in enumerate((math.nan, math.inf, 1.7e308, -1.7e308, 1e300, -1e300, 0.0)):
        history.log(step, None, {"a\x1b[2J": value})
    shown = call("watch", run.path).stdout
    assert "\x1b" not in shown
    assert "a\\x1b[2J" in shown


@pytest.mark.parametrize("width", [20, 40, 80, 200])
def test_frames_fit_the_terminal(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    lines = call("watch", run.path, "--format", "human").stdout.splitlines()
    # Words of a table can't be narrower than its columns.
    assert max(len(line) for line in lines if "─" not in line) <= max(width, 40)


def test_chart_lines() -> None:
    curve = [(0, 0.0), (1, 1.0), (2, 2.0), (3, math.nan)]
    assert curve_lines(curve, (0, 3), 4, 1, blocks=True) == ["▁▅█ "]
    assert curve_lines(curve, (0, 3), 4, 2, blocks=True) == [" ▁█ ", "▁██ "]
    assert curve_lines([(5, 1.0)], (5, 5), 3, 1, blocks=True) == ["▁  "]
    assert curve_lines([(5, math.nan)], (5, 5), 3, 1, blocks=True) == []
    assert limits(curve) == (0.0, 2.0)
    assert limits([]) is None
    assert mark_cells({0: "a", 5: "b", 10: "c", 11: "d"}, (0, 10), 3) == {0: "a", 1: "b", 2: "c"}


@pytest.mark.parametrize("key", [b"q", b"xQ", b"\x03"], ids=["q", "Q after another key", "Ctrl-C"])
@pytest.mark.parametrize("command", [["watch"], ["ls", "--watch"]], ids=" ".join)
def test_keys_end_it_cleanly(run: Run, tmp_path: Path, command: list[str], key: bytes) -> None:
    program = [str(keepstep(tmp_path)), command[0], str(run.path), *command[1:]]
    pressed: list[bytes] = []

    def keys(shown: bytes) -> bytes:
        if b"kept" not in shown.lower() or pressed:
            return b""
        pressed.append(key)
        return key

    code, shown = on_terminal(program, keys=keys, size=(24, 60))
    assert code == 0, shown
    # The screen that was there before is back, and the cursor with it.
    assert shown.rstrip().endswith("\x1b[?25h\x1b[?1049l")
    assert "Traceback" not in shown
    assert "interrupted" not in shown


def test_no_color_and_dumb_terminals(run: Run, tmp_path: Path) -> None:
    program = [str(keepstep(tmp_path)), "watch", str(run.path)]
    code, shown = on_terminal(program, env={"TERM": "dumb"})
    assert code == 0 and "\x1b" not in shown
    _, shown = on_terminal(program, env={"NO_COLOR": "1"}, keys=lambda shown: b"q" if b"Last events" in shown else b"")
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", shown)
