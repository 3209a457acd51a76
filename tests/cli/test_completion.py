"""Shells complete commands, options and the references of the run that was typed: asked in each shell's protocol."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from keepstep.cli.commands.completion import SHELLS
from keepstep.cli.registry import COMMANDS
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.cli.terminals import keepstep, on_terminal
from tests.operations.runs import cut_manifest, make_run

BASH = shutil.which("bash") or pytest.skip("there is no bash", allow_module_level=True)
ASK = """
source "$SCRIPT"
COMP_WORDS=({words} "{incomplete}")
COMP_CWORD=$(( ${{#COMP_WORDS[@]}} - 1 ))
_keepstep_completion keepstep
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.fixture
def run(tmp_path: Path, call: Call) -> Path:
    path = make_run(tmp_path / "run", {10: 0.5, 20: 0.25, 30: 0.75}).path
    call("tag", path, 10, "release-1")
    return path


@pytest.fixture
def ask(tmp_path: Path, call: Call):
    keepstep(tmp_path)
    script = tmp_path / "script"
    script.write_text(call("completion", "bash").stdout)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "SCRIPT": str(script)}

    def ask(words: str, incomplete: str = "") -> list[str]:
        script = ASK.format(words=f"keepstep {words}", incomplete=incomplete)
        done = subprocess.run([BASH, "-c", script], capture_output=True, text=True, env=env, timeout=60, check=True)
        assert done.stderr == ""
        return done.stdout.split()

    return ask


def test_references_of_the_run(run: Path, ask) -> None:
    assert ask(f"show {run}") == ["best", "latest", "release-1", "30", "20", "10"]
    assert ask(f"pin {run}", "r") == ["release-1"]
    assert ask(f"resume {run} --ref", "2") == ["20"]
    (run / "checkpoint-30" / "keepstep.json").unlink()
    assert ask(f"show {run}") == ["best", "latest", "release-1", "20", "10"]


def test_what_lies_aside(run: Path, ask) -> None:
    opened = Run.open(run)
    with opened.writing():
        opened.rewind(opened.find(10))
    assert ask(f"restore {run}", "g") == ["gen:3", "gen:2"]
    assert "gen:3" in ask(f"show {run}")


def test_commands_and_options(ask) -> None:
    assert ask("", "sho") == ["show"]
    assert ask("") == list(COMMANDS)
    assert ask("watch", "--int") == ["--interval"]
    assert ask("completion") == list(SHELLS)


@pytest.mark.parametrize("damage", ["nothing there", "no run", "damaged"])
def test_silent_where_there_is_no_run(tmp_path: Path, ask, damage: str) -> None:
    path = tmp_path / "run"
    if damage == "no run":
        path.mkdir()
    elif damage == "damaged":
        make_run(path, {1: 0.5})
        cut_manifest(path / "checkpoint-1")
        (path / ".keepstep" / "run.json").write_text("{")
    assert ask(f"show {path}") == []


def test_a_tab_in_a_real_bash(run: Path, tmp_path: Path) -> None:
    keepstep(tmp_path)
    sent: list[bytes] = []

    def keys(shown: bytes) -> bytes:
        if not sent:
            sent.append(b"source <(keepstep completion bash); PS1='ready> '\r")
            return sent[0]
        if b"hready> " in shown and len(sent) == 1:
            sent.append(f"keepstep show {run} rel\t --format json | head -c 16; exit\r".encode())
            return sent[1]
        return b""

    env = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PS1": "$ "}
    _, shown = on_terminal([BASH, "--norc", "--noprofile", "-i"], keys=keys, env=env, size=(24, 200))
    assert f"keepstep show {run} release-1" in shown
    assert '"step": 10' in shown


@pytest.mark.parametrize("shell", sorted(SHELLS))
def test_scripts_are_what_the_shell_understands(call: Call, shell: str) -> None:
    script = call("completion", shell).stdout
    assert f"_KEEPSTEP_COMPLETE={shell}_complete" in script
    assert json.loads(call("completion", shell, "--format", "json").stdout)["script"] == script.strip()
    program = shutil.which(shell)
    if program is not None:
        subprocess.run([program, "-n"], input=script, text=True, check=True, timeout=60)


def test_values_are_told_to_shells_that_show_them(run: Path, tmp_path: Path) -> None:
    env = {**os.environ, "COMP_WORDS": f"keepstep show {run} ", "COMP_CWORD": "3", "_KEEPSTEP_COMPLETE": "zsh_complete"}
    done = subprocess.run([keepstep(tmp_path)], capture_output=True, text=True, env=env, timeout=60, check=True)
    lines = done.stdout.splitlines()
    assert lines[lines.index("20") + 1] == "eval_loss 0.25, 1.0 kB"
    assert lines[lines.index("best") + 1] == "step 20"
