"""The map in CONTRIBUTING.md is that of the code, no import runs up or in a circle, and the tool would notice."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

import grimp
import pytest

ROOT = Path(__file__).parents[2]
TOOL = ROOT / "tools" / "map.py"
CONTRACT = """
[tool.importlinter]
root_package = "PACKAGE"
[[tool.importlinter.contracts]]
name = "Imports go down only"
type = "layers"
containers = ["PACKAGE"]
layers = ["roof", "left | right", "ground"]
[[tool.importlinter.contracts]]
name = "Inside left"
type = "layers"
containers = ["PACKAGE.left"]
layers = ["upper", "lower"]
[[tool.importlinter.contracts]]
name = "Nobody reaches below the face of left/"
type = "protected"
protected_modules = ["PACKAGE.left.*"]
allowed_importers = ["PACKAGE.left"]
"""
FILES = {
    "__init__.py": '"""A house."""\nfrom PACKAGE.right import a\n',
    "roof/__init__.py": '"""What users do."""\nimport PACKAGE\nfrom PACKAGE import left\n',
    "left/__init__.py": '"""The left one.\n\nWith more to say.\n"""\nfrom PACKAGE.left import upper\n',
    "left/upper.py": "from PACKAGE.left import lower\n",
    "left/lower.py": "from PACKAGE import ground\n",
    "right/__init__.py": '"""The right one."""\n',
    "right/a.py": "def late():\n    from PACKAGE import ground\n",
    "ground.py": '"""What all stand on."""\n',
}
Build = Callable[..., Path]


def _tool() -> ModuleType:
    spec = spec_from_file_location("keepstep_tools_map", TOOL)
    assert spec is not None and spec.loader is not None
    module = sys.modules[spec.name] = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


TOOLS: Any = _tool()


@pytest.fixture
def build(tmp_path: Path) -> Build:
    """Make a small house in order, but for the files given; its map stands in its CONTRIBUTING.md."""

    def make(package: str, files: dict[str, str | None]) -> Path:
        home = tmp_path / package
        for name, text in (FILES | files).items():
            if text is not None:
                path = home / "src" / package / name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text.replace("PACKAGE", package))
        (home / "pyproject.toml").write_text(CONTRACT.replace("PACKAGE", package))
        (home / "CONTRIBUTING.md").write_text(f"# Before\n{TOOLS.BEGIN}\n{TOOLS.END}\nAfter.\n")
        assert TOOLS.main(["--root", str(home), "--write"]) == 0
        return home

    return make


def test_the_map_is_that_of_the_code_and_the_house_is_in_order() -> None:
    house = TOOLS.House(ROOT)
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert TOOLS.problems(house) == []
    assert TOOLS.with_map(page, house) == page, "python tools/map.py --write"


def test_the_command_says_so_too_and_measures() -> None:
    def call(*options: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, TOOL, *options], capture_output=True, text=True, check=False, timeout=60)

    checked, shown = call("--check"), call()
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")
    assert shown.stdout.splitlines()[-1].endswith("files, 0 circles.")
    assert ", 0 upward; " in shown.stdout


def test_a_house_in_order_is_drawn_from_the_top_down(build: Build, capsys: pytest.CaptureFixture[str]) -> None:
    home = build("house_in_order", {})
    assert TOOLS.main(["--root", str(home), "--check"]) == 0
    assert capsys.readouterr().out == ""
    assert (home / "CONTRIBUTING.md").read_text() == (
        f"# Before\n{TOOLS.BEGIN}\n```text\n"
        "house_in_order  A house.\n"
        " 1   roof/      What users do.\n"
        " 2 * left/      The left one.\n"
        "     right/     The right one.\n"
        " 3   ground     What all stand on.\n"
        "\n"
        "Imports go down only: a room may import from those of a higher number. Rooms of one number know nothing of "
        "each other.\n"
        "From house_in_order itself only those of number 1 import, as its users do.\n"
        "* has a face: others import what its __init__.py hands on, and nothing below it.\n"
        "Inside left/, from the top: upper; lower.\n"
        f"```\n{TOOLS.END}\nAfter.\n"
    )
    assert TOOLS.main(["--root", str(home)]) == 0
    shown = capsys.readouterr().out
    assert " 2 * left/          3      7  The left one.\n" in shown
    assert shown.endswith("5 rooms (the front door is one), 5 arrows between them, 0 upward; 8 files, 0 circles.\n")


@pytest.mark.parametrize(
    ("package", "files", "found"),
    [
        (
            "house_with_an_import_up",
            {"ground.py": '"""What all stand on."""\ndef late():\n    import PACKAGE.left.lower\n'},
            [
                "an import runs upward: PACKAGE.ground imports PACKAGE.left.lower",
                "a circle: PACKAGE.ground, PACKAGE.left.lower",
            ],
        ),
        (
            "house_with_an_import_beside",
            {"right/a.py": "from PACKAGE.left import upper\n"},
            ["an import runs upward: PACKAGE.right.a imports PACKAGE.left.upper"],
        ),
        (
            "house_with_an_import_up_inside",
            {"left/lower.py": "import PACKAGE.left.upper\n", "left/upper.py": ""},
            ["an import runs upward: PACKAGE.left.lower imports PACKAGE.left.upper"],
        ),
        (
            "house_entered_from_below",
            {"__init__.py": '"""A house."""\n', "left/lower.py": "import PACKAGE\n"},
            ["an import runs upward: PACKAGE.left.lower imports PACKAGE"],
        ),
        (
            "house_with_a_circle_of_types",
            {
                "left/upper.py": "from PACKAGE.left import lower\n",
                "left/lower.py": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import PACKAGE.left.third\n",
                "left/third.py": "from PACKAGE.left import lower\n",
            },
            ["a circle: PACKAGE.left.lower, PACKAGE.left.third"],
        ),
        ("house_without_a_sentence", {"right/__init__.py": ""}, ["right/ has no sentence"]),
        ("house_with_a_title", {"left/inner/__init__.py": '"""Inner"""\n'}, ["left/inner/ has no sentence"]),
        ("house_with_an_annex", {"annex.py": '"""Not planned."""\n'}, ["annex is not in the contract"]),
        (
            "house_without_ground",
            {"ground.py": None, "left/lower.py": "", "right/a.py": ""},
            ["the contract names ground, which is not there"],
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_wrong_is_found_and_named(
    build: Build, capsys: pytest.CaptureFixture[str], package: str, files: dict[str, str | None], found: list[str]
) -> None:
    home = build(package, files)
    assert TOOLS.main(["--root", str(home), "--check"]) == 1
    assert capsys.readouterr().out.splitlines() == [line.replace("PACKAGE", package) for line in found]


@pytest.mark.parametrize(
    ("package", "change", "stale"),
    [
        ("house_that_grew", lambda file: file.write_text(file.read_text() + "\n\nlines = 2\n"), False),
        ("house_renamed", lambda file: file.write_text('"""What nobody expected."""\n'), True),
    ],
    ids=["grown", "another sentence"],
)
def test_the_map_is_stale_after_another_sentence_not_after_another_line(
    build: Build, capsys: pytest.CaptureFixture[str], package: str, change: Callable[[Path], Any], stale: bool
) -> None:
    home = build(package, {})
    change(home / "src" / package / "ground.py")
    assert TOOLS.main(["--root", str(home), "--check"]) == int(stale)
    assert ("the map in CONTRIBUTING.md is out of date" in capsys.readouterr().out) is stale


def test_a_page_without_markers_is_an_error() -> None:
    with pytest.raises(ValueError, match="markers"):
        TOOLS.with_map("# A page\n", TOOLS.House(ROOT))


def test_every_circle_is_one_set_of_files() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in ("ab", "bc", "ca", "cd", "de", "ed", "ef"):
        graph.add_import(importer=importer, imported=imported)
    assert TOOLS.circles(graph) == [["a", "b", "c"], ["d", "e"]]


def test_many_imports_between_two_rooms_are_one_arrow() -> None:
    graph = grimp.ImportGraph()
    for importer, imported in [
        ("p.a", "p.b.x"), ("p.a", "p.b.y"), ("p.b.x", "p.b.y"), ("p", "p.a"), ("p.__main__", "p.a"), ("q", "p.a"),
    ]:  # fmt: skip
        graph.add_import(importer=importer, imported=imported)
    assert set(TOOLS.arrows(graph, "p")) == {("a", "b"), (TOOLS.DOOR, "a")}
