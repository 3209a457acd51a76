"""Tests of what a start imports: nothing heavy before it is needed."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep import __version__
from keepstep.cli.registry import COMMANDS
from tests.cli.conftest import Call
from tests.operations.runs import make_run

HEAVY = {"torch", "transformers", "numpy", "trl", "accelerate", "datasets", "asyncio"}
WITHOUT_RUN = {"mirror", "plan", "simulate", "doctor", "adopt", "run", "slurm", "k8s"}
"""Commands about a training that has not begun."""
_OF_ONE_FORMAT = {"metrics", "run", "slurm", "k8s"}
"""Commands whose output is for one reader, or is another command's."""
_PARTS = {name: entry.parts for name, entry in COMMANDS.items() if entry.parts}
"""Commands that are groups of commands."""
REPORT = """
import json, sys
from keepstep.cli.main import main
try:
    main(sys.argv[1:])
finally:
    print(json.dumps(sorted(sys.modules)), file=sys.stderr)
"""


def _modules_of(*arguments: str) -> set[str]:
    command = [sys.executable, "-c", REPORT, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return set(json.loads(done.stderr.splitlines()[-1]))


@pytest.mark.parametrize("argument", ["--help", "--version"])
def test_help_and_version_import_no_command(argument: str) -> None:
    modules = _modules_of(argument)
    assert "click" in modules
    assert modules.isdisjoint(HEAVY | {"rich", "keepstep.run.run", "keepstep.cli.commands.ls", "msgspec"})


@pytest.mark.parametrize("arguments", [["ls"], ["show", "1"], ["verify"], ["resume"], ["events"], ["prune"]])
def test_piped_commands_import_no_rich(tmp_path: Path, arguments: list[str]) -> None:
    command, *rest = arguments
    path = make_run(tmp_path / "run", {1: 0.5}).path
    modules = _modules_of(command, str(path), *rest)
    assert "keepstep.run.run" in modules
    assert modules.isdisjoint(HEAVY | {"rich"})


def test_a_list_imports_what_lists_and_no_more(tmp_path: Path) -> None:
    modules = _modules_of("ls", str(make_run(tmp_path / "run", {}).path))
    assert "keepstep.run.run" in modules
    others = {"keepstep.run.unmanaged", "keepstep.run.receipt", "keepstep.run.history", "keepstep.cli.growth"}
    assert modules.isdisjoint(HEAVY | others | {"logging", "shutil", "ctypes", "statistics", "difflib", "hashlib"})


def test_tables_import_rich(tmp_path: Path) -> None:
    assert "rich" in _modules_of("ls", str(make_run(tmp_path / "run", {1: 0.5}).path), "--format", "human")


def test_version(call: Call) -> None:
    assert call("--version").stdout == f"keepstep {__version__}\n"


def test_help_lists_every_command_with_its_sentence(call: Call) -> None:
    shown = " ".join(call("--help").stdout.split())
    for name, entry in COMMANDS.items():
        assert f"{name} {entry.sentence}" in shown


@pytest.mark.parametrize("name", sorted(set(COMMANDS) - {"demo"}))
def test_every_command_explains_itself_with_examples(call: Call, name: str) -> None:
    shown = call(name, "--help").stdout
    assert COMMANDS[name].sentence in shown
    assert f"Examples:\n  keepstep {name} " in shown
    if name not in _OF_ONE_FORMAT | set(_PARTS):
        assert "--format [auto|human|json|agent]" in shown
    assert name in WITHOUT_RUN or "RUN" in shown


@pytest.mark.parametrize(("name", "part"), [(name, part) for name, parts in _PARTS.items() for part in parts])
def test_every_part_of_a_command_explains_itself_with_examples(call: Call, name: str, part: str) -> None:
    shown = call(name, part, "--help").stdout
    assert COMMANDS[name].parts[part] in shown
    assert COMMANDS[name].parts[part] in call(name, "--help").stdout
    assert f"Examples:\n  keepstep {name} {part} " in shown
    assert "--format [auto|human|json|agent]" in shown


@pytest.mark.parametrize(
    "arguments",
    [
        ["plan", "--params", "13B", "--steps", "100", "--save-every", "10", "--limit", "2"],
        ["simulate", "--steps", "100", "--save-every", "10", "--eval-every", "10", "--limit", "2"],
    ],
)
def test_planning_from_numbers_imports_nothing_heavy(arguments: list[str]) -> None:
    modules = _modules_of(*arguments)
    assert "keepstep.operations.planning.sizes" in modules
    assert modules.isdisjoint(HEAVY | {"rich", "yaml", "matplotlib"})
