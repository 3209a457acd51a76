"""Tests of errors: one line, a way out, an exit code of its kind, and never a traceback."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run, training

KEEPSTEP = [sys.executable, "-m", "keepstep"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2})


def _keepstep(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*KEEPSTEP, *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)


def test_a_process_of_its_own_exits_with_the_code_of_the_kind(run: Run, tmp_path: Path) -> None:
    assert _keepstep("ls", run.path).returncode == 0
    missing = _keepstep("ls", tmp_path / "nowhere")
    assert missing.returncode == 3
    assert missing.stderr == (
        f"keepstep: {tmp_path / 'nowhere'} is no directory\n  Give the output_dir of a training run.\n"
    )
    with training(run.path):
        locked = _keepstep("prune", run.path, "--keep", "latest:1", "--yes")
    assert locked.returncode == 5
    assert locked.stderr.startswith("keepstep: ")
    assert "Traceback" not in locked.stderr


def test_wrong_places(run: Run, tmp_path: Path, call: Call) -> None:
    file = tmp_path / "file"
    file.write_text("")
    for place, part in [
        (file, "is no directory"),
        (tmp_path, "There are runs below it: run"),
        (run.path / "checkpoint-1", f"Give the run: {run.path}"),
        (run.path / ".keepstep", "holds no run"),
    ]:
        result = call("ls", place)
        assert (result.exit_code, result.stdout) == (3, ""), place
        assert part in result.stderr


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("run.json", '{"format":1,"run_id":"x"}', 1),
        ("run.json", '{"format":1,"run_id":"x","created":"2026-11-20T12:00:00Z","keep":3}', 1),
        ("run.json", '{"format":7,"run_id":"x","created":"2026-11-20T12:00:00Z","keep":"all"}', 9),
        ("run.json", '{"format":1,"run_id":"x","created":"2026-11-20T12:00:00Z","keep":"nonsense"}', 2),
        ("pins.json", "{", 1),
        ("pins.json", '{"pinned": "1"}', 1),
    ],
)
def test_damaged_files_of_the_run(run: Run, call: Call, name: str, content: str, code: int) -> None:
    (run.path / ".keepstep" / name).write_text(content)
    result = call("ls", run.path)
    assert (result.exit_code, result.stdout) == (code, "")
    assert result.stderr.startswith("keepstep: ")


def test_a_torn_event_log_is_read_as_far_as_it_goes(run: Run, call: Call) -> None:
    log = run.path / ".keepstep" / "events.jsonl"
    log.write_bytes(log.read_bytes()[:-20] + b"\xff\xfe\n{]\n")
    assert len(json.loads(call("ls", run.path, "--format", "json").stdout)) == 2


def test_what_the_system_refuses_is_8(run: Run, call: Call) -> None:
    log = run.path / ".keepstep" / "events.jsonl"
    log.unlink()
    log.symlink_to("/nowhere")
    result = call("ls", run.path)
    assert result.exit_code == 8
    assert result.stderr.startswith("keepstep: ")
    assert str(log) in result.stderr


def test_permission_denied_is_8(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise PermissionError(13, "Permission denied", "some\x1bfile")

    monkeypatch.setattr("keepstep.cli.commands.ls.list_checkpoints", refuse)
    result = call("ls", run.path)
    assert result.exit_code == 8
    assert "some\\x1bfile can't be written by user " in result.stderr
    assert result.stderr.endswith(": Permission denied\n")


def test_a_bug_keeps_its_traceback(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("keepstep.cli.commands.ls.list_checkpoints", fail)
    with pytest.raises(ZeroDivisionError):
        call("ls", run.path)


@pytest.mark.parametrize("arguments", [[], ["lss"], ["verify"], ["ls", ".", "--fromat", "json"]])
def test_wrong_usage_is_2(call: Call, arguments: list[str]) -> None:
    assert call(*arguments).exit_code == 2


def test_an_unknown_command_names_a_near_one(call: Call) -> None:
    assert "Did you mean 'prune'?" in call("prun").stderr


def test_interrupt_is_130_with_one_line(run: Run) -> None:
    command = [*KEEPSTEP, "events", str(run.path), "--follow"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors == "keepstep: interrupted\n"


def test_an_interrupt_that_became_another_error_is_one(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def half_imported(*args: object, **kwargs: object) -> None:
        with suppress(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        raise AttributeError("module 'torch' has no attribute 'UntypedStorage'")

    monkeypatch.setattr("keepstep.cli.commands.ls.list_checkpoints", half_imported)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        result = call("ls", run.path)
    finally:
        signal.signal(signal.SIGINT, before)
    assert (result.exit_code, result.stderr.strip()) == (130, "keepstep: interrupted")


def test_a_reader_that_goes_away_is_no_error(run: Run) -> None:
    for _ in range(4000):  # far more than a pipe holds
        run.events.append("pinned", step=1, name="x" * 1000)
    command = [*KEEPSTEP, "events", str(run.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        process.wait(timeout=30)
    assert errors == ""
    assert process.returncode == 141


@pytest.mark.parametrize(
    "command",
    [
        ["prune", "{}", "--keep", "latest:1", "--yes"],
        ["thin", "{}", "1"],
        ["reseal", "{}", "1", "--yes"],
        ["verify", "{}", "--quarantine"],
    ],
    ids=lambda command: command[0],
)
def test_beside_a_training_a_command_says_what_to_do_in_its_place(run: Run, call: Call, command: list[str]) -> None:
    (run.path / "checkpoint-1" / "config.json").write_text("{}")
    with training(run.path):
        done = call(*(word.format(run.path) for word in command))
    assert done.exit_code == 5, done.output
    assert "would get in its way, and nothing was changed" in done.stderr
    assert "output_dir" not in done.stderr, "nobody begins a run here"
    assert (
        "A training applies its own policy" if command[0] in ("prune", "thin") else "Wait until it is over"
    ) in done.stderr
