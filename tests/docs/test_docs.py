"""What the pages say is what the code does: generated pages, code blocks, links, commands."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.cli.main import main as cli
from keepstep.cli.registry import COMMANDS

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
_CODE = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_python_blocks_parse_and_name_what_there_is(page: Path) -> None:
    import keepstep

    for language, block in _CODE.findall(page.read_text(encoding="utf-8")):
        if language != "python":
            continue
        for node in ast.walk(ast.parse(block.replace(", ...)", ")"))):
            if isinstance(node, ast.ImportFrom) and node.module == "keepstep":
                assert {alias.name for alias in node.names} <= set(keepstep.__all__)
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "keepstep":
                assert node.attr in keepstep.__all__


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)", page.read_text(encoding="utf-8")):
        assert "://" in target or (page.parent / target).exists(), f"{page.name} links to {target}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_exist(page: Path) -> None:
    for language, block in _CODE.findall(page.read_text(encoding="utf-8")):
        if language == "console":
            used = set(re.findall(r"keepstep ([a-z]+(?:-[a-z]+)*)", block))
            assert used <= set(COMMANDS), f"{page.name} names commands that do not exist"


def test_every_command_and_rule_is_documented() -> None:
    from keepstep.retention import rule_table

    cli, rules = ((ROOT / "docs" / name).read_text(encoding="utf-8") for name in ("cli.md", "rules.md"))
    assert all(f"## keepstep {name}\n" in cli for name in COMMANDS)
    assert all(example in rules for example, _ in rule_table())


def test_a_loop_of_your_own_runs_as_the_guide_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    block = next(code for language, code in _CODE.findall(guide) if language == "python" and "Checkpointer(" in code)
    monkeypatch.chdir(tmp_path)

    def write_files_into(directory: Path) -> None:
        (directory / "model.bin").write_bytes(b"weights")

    exec(compile(block, "guide.md", "exec"), {"write_files_into": write_files_into})
    assert (tmp_path / "runs" / "mine" / "checkpoint-100" / "model.bin").read_bytes() == b"weights"


def test_the_textbook_answer_in_the_guide_is_what_the_command_prints() -> None:
    guide = (ROOT / "docs" / "guide.md").read_text(encoding="utf-8")
    (line,) = re.findall(r"\$ keepstep (simulate .*)", guide)
    (answer,) = [block for language, block in _CODE.findall(guide) if language == "text" and "Crash after" in block]
    assert answer in CliRunner().invoke(cli, line.split()).stdout
