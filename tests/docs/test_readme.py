"""The first page: what it says of installing is what the project's own files say."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
NAMES = {"transformers": "transformers", "TRL": "trl", "torch": "torch"}


@pytest.fixture
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def constraints(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_it_begins_with_what_this_is_and_how_it_is_installed(project: dict[str, Any]) -> None:
    title, sentence, install, *_ = README.split("\n\n")
    assert (title, sentence) == ("# Keepstep", f"**{project['description']}**")
    commands = re.findall(r"^\$ (.*?)  +#", install, re.MULTILINE)
    assert commands == ['pip install -e ".[hf]"', 'pip install "keepstep[hf]"']


def test_the_versions_are_those_of_the_constraints(project: dict[str, Any]) -> None:
    oldest, newest = constraints("constraints-oldest.txt"), constraints("constraints.txt")
    said = " ".join(README.split("\n\n")[3].split())
    for name, package in NAMES.items():
        first, last = oldest[package], newest[package]
        span = first if first == last else f"{first} to {last}"
        assert re.search(rf"\b{name} {re.escape(span)}(?=[ ,;])", said), f"README does not say {name} {span}: {said}"
    assert f"Python {project['requires-python'].removeprefix('>=')} or newer" in said


def test_the_table_of_extras_has_all_of_them(project: dict[str, Any]) -> None:
    rows = re.findall(r"^\| `(\w+)` \|", README.partition("## Extras")[2].partition("\n## ")[0], re.MULTILINE)
    assert sorted(rows) == sorted(project["optional-dependencies"])


def test_hints_and_pages_name_extras_that_there_are(project: dict[str, Any]) -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "src").rglob("*.py")]
    named = {
        extra
        for page in pages
        for extras in re.findall(r"pip install (?:-e )?\"(?:keepstep|\.)\[([\w,]+)\]", page.read_text(encoding="utf-8"))
        for extra in extras.split(",")
    }
    assert {"hf", "web", "metrics", "plot", "demo"} <= named <= set(project["optional-dependencies"])


def test_links_within_the_repository_are_relative() -> None:
    assert "github.com/keepstep" not in README


def test_two_commands_set_everything_up() -> None:
    targets = re.findall(r"^(\w+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"demo", "test"} <= set(targets)
    assert "`make test` sets up" in README and "```console\n$ make demo\n```" in README
    assert "These two commands are all the set-up there is." in README
