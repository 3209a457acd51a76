"""What commands ask and draw where nobody can answer, and where nothing can be drawn over."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import keepstep
from keepstep.cli.drawing.progress import QUIET, Lines
from tests.cli.terminals import keepstep as program
from tests.cli.terminals import on_terminal
from tests.operations.runs import make_run

CLI = Path(keepstep.__file__).parent / "cli"
CONSOLE = {"confirm", "prompt", "getchar", "pause", "edit", "input"}


def _asks(path: Path) -> set[str]:
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    names = {node.func.attr for node in calls if isinstance(node.func, ast.Attribute)}
    names |= {node.func.id for node in calls if isinstance(node.func, ast.Name)}
    return names & CONSOLE


def test_one_place_asks_and_one_has_a_name_typed() -> None:
    asking = {path.relative_to(CLI).as_posix(): found for path in CLI.rglob("*.py") if (found := _asks(path))}
    assert asking == {"drawing/render.py": {"confirm"}, "commands/unmanaged.py": {"prompt"}}


@pytest.mark.parametrize("elsewhere", ["< /dev/null", "> out", "2> err", ""])
def test_a_question_needs_all_of_a_terminal(elsewhere: str, tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.3, 2: 0.2, 3: 0.1})
    line = f"{program(tmp_path)} prune {run.path} --keep latest:1 {elsewhere}"
    code, shown = on_terminal(
        ["/bin/sh", "-c", f"cd {tmp_path}; {line}"], keys=lambda shown: b"n\n" if b"[y/N]" in shown else b""
    )
    everything = shown + "".join(path.read_text() for path in tmp_path.glob("*") if path.name in {"out", "err"})
    assert code == 0 and len(run.checkpoints) == 3
    assert ("[y/N]" in everything) == (elsewhere == "")
    assert ("dry run: nothing was removed; add --yes to remove" in everything) == (elsewhere != "")


def test_progress_without_a_terminal_is_a_line_now_and_then() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines("verifying", 10**9, said.append, clock=lambda: now[0])
    lines.describe("step 1")
    lines.advance(10**8)
    assert said == [], "short work says nothing"
    now[0] = QUIET
    lines.advance(10**8)
    lines.advance(10**8)
    now[0] = 2 * QUIET
    lines.describe("step 2")
    assert said == ["verifying: step 1: 200 MB of 1.0 GB", "verifying: step 2: 300 MB of 1.0 GB"]
    runs = Lines("looking", 12, said.append, unit="runs", clock=lambda: now[0])
    now[0] = 3 * QUIET
    runs.advance(3)
    assert said[-1] == "looking: 3 of 12 runs"
