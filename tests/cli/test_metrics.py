"""`keepstep metrics`: printed, served, written, and refused."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.conftest import Call
from tests.operations.runs import make_run


def test_prints_the_runs_below_a_directory(call: Call, tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    make_run(tmp_path / "deep" / "b", {2: 1.0})
    result = call("metrics", tmp_path)
    assert result.exit_code == 0
    assert result.output.count("keepstep_latest_step{") == 2


def test_without_the_extra_it_says_what_to_install(call: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    result = call("metrics", tmp_path / "a")
    assert result.exit_code == 2 and "need the package prometheus-client" in result.stderr
    assert result.stderr.endswith('Install it: pip install "keepstep[metrics]"\n')


def test_a_run_given_twice_is_counted_once(call: Call, tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    assert call("metrics", tmp_path / "a", tmp_path).output.count("keepstep_latest_step{") == 1


def test_writes_a_file(call: Call, tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    result = call("metrics", tmp_path / "a", "--textfile", tmp_path / "a.prom")
    assert (result.exit_code, result.output) == (0, "")
    assert "keepstep_saves_total" in (tmp_path / "a.prom").read_text()


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--listen", "9400"], 2, "prometheus is '9400'"),
        (["--listen", ":9400", "--textfile", "a.prom"], 2, "choose one"),
        (["--interval", "5s"], 2, "goes with --textfile"),
        (["--textfile", "a.prom", "--interval", "5"], 2, "has no unit"),
        (["--textfile", "a.prom", "--interval", "0.1s"], 2, "One second is the shortest"),
        (["--textfile", "metrics.txt"], 2, "*.prom"),
        (["--textfile", "nowhere/a.prom"], 8, "can't be written"),
    ],
)
def test_wrong_options_say_what_is_right(
    call: Call, tmp_path: Path, arguments: list[str], code: int, words: str
) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    result = call("metrics", tmp_path / "a", *(arg.replace("nowhere", str(tmp_path / "nowhere")) for arg in arguments))
    assert result.exit_code == code
    assert words in " ".join(result.output.split())


def test_no_run_and_no_directory(call: Call, tmp_path: Path) -> None:
    assert call("metrics", tmp_path).exit_code == 3
    assert call("metrics", tmp_path / "nowhere").exit_code == 3


def test_serves_until_ctrl_c_and_sees_new_saves(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    command = [sys.executable, "-m", "keepstep", "metrics", str(tmp_path), "--listen", ":0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        address = process.stdout.readline().split()[0]
        for step in (1, 7):
            make_run(tmp_path / "a", {step: 1.0})
            with urllib.request.urlopen(address) as answer:
                assert f" {float(step)}" in next(
                    line for line in answer.read().decode().splitlines() if line.startswith("keepstep_latest_step{")
                )
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
        assert "Traceback" not in process.stderr.read()


def test_a_file_is_written_again_and_again_until_ctrl_c(tmp_path: Path) -> None:
    make_run(tmp_path / "a", {1: 1.0})
    file = tmp_path / "a.prom"
    command = [sys.executable, "-m", "keepstep", "metrics", str(tmp_path), "--textfile", str(file), "--interval", "1s"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        _wait_for(file.exists)
        make_run(tmp_path / "b", {2: 1.0})
        _wait_for(lambda: 'run="b"' in file.read_text())
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130


def _wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)
