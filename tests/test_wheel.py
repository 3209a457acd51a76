"""What is installed: every file of the package, the examples, and a description without dead links."""

from __future__ import annotations

import email
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.message import Message
from pathlib import Path

import pytest

import keepstep

REPOSITORY = Path(__file__).parents[1]
PACKAGE = Path(keepstep.__file__).parent
HOME = "https://github.com/keepstep/keepstep"
PICTURES = "https://raw.githubusercontent.com/keepstep/keepstep/main/"


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("no uv is installed: what builds the wheel")
    # A copy: what builds may leave files beside what it reads.
    source, built = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    for name in ("src", "examples"):
        shutil.copytree(REPOSITORY / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    # Nothing is fetched: who installed keepstep from a checkout has what builds it at hand.
    command = [uv, "build", "--wheel", "--offline", "--python", sys.executable, "--out-dir", str(built), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0 and "network was disabled" in done.stderr:
        pytest.skip("what builds the wheel is not at hand, and nothing is fetched for a test")
    assert done.returncode == 0, done.stderr
    [path] = built.glob("*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return email.message_from_string(wheel.read(name).decode())


def files_below(directory: Path) -> set[str]:
    return {
        f"keepstep/{path.relative_to(PACKAGE)}"
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }


@pytest.mark.parametrize(
    ("part", "one_of_them"),
    [
        ("", "keepstep/py.typed"),
        ("web/static", "keepstep/web/static/index.html"),
        ("web/static/vendor", "keepstep/web/static/vendor/uplot/LICENSE"),
        ("demo/assets", "keepstep/demo/assets/model/model.safetensors"),
    ],
)
def test_every_file_of_the_package_is_in_it(wheel: zipfile.ZipFile, part: str, one_of_them: str) -> None:
    wanted = files_below(PACKAGE / part)
    assert one_of_them in wanted
    assert wanted <= set(wheel.namelist()), wanted - set(wheel.namelist())


def test_the_examples_are_in_it_where_the_demo_looks(wheel: zipfile.ZipFile) -> None:
    wanted = {path.name: path.read_bytes() for path in (REPOSITORY / "examples").glob("*.py")}
    assert "sft_lora.py" in wanted
    packed = {name: wheel.read(f"keepstep/demo/examples/{name}") for name in wanted}
    assert packed == wanted


def test_nothing_else_is_in_it(wheel: zipfile.ZipFile) -> None:
    places = {name.partition("/")[0] for name in wheel.namelist()}
    assert places == {"keepstep", f"keepstep-{keepstep.__version__}.dist-info"}
    assert not [name for name in wheel.namelist() if name.endswith(".pyc")]


def test_the_description_has_no_relative_link(metadata: Message) -> None:
    described = metadata.get_payload()
    assert isinstance(described, str)
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", described)
    assert all(link.startswith(PICTURES if mark else f"{HOME}/blob/main/") for mark, link in links), links
    pictures = [link for mark, link in links if mark]
    assert len(pictures) == 3 and len(links) > 15
    for _, link in links:
        path = link.removeprefix(PICTURES).removeprefix(f"{HOME}/blob/main/").partition("#")[0]
        assert (REPOSITORY / path).exists(), link
    # As many as the page in the repository has: none was lost on the way.
    readme = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    assert len(links) == readme.count("](")
    assert "<img" not in readme and "href=" not in readme and not re.search(r"^\[[^\]]+\]:", readme, re.MULTILINE)


def test_the_index_is_told_where_the_project_lives(metadata: Message) -> None:
    urls = dict(entry.split(", ") for entry in metadata.get_all("Project-URL", []))
    assert set(urls) == {"Homepage", "Documentation", "Source", "Changelog", "Issues"}
    assert all(url.startswith(HOME) for url in urls.values())
    for url in urls.values():
        path = url.removeprefix(HOME).removeprefix("/blob/main/")
        assert path in ("", "/issues") or (REPOSITORY / path).is_file(), url
    assert metadata["Description-Content-Type"] == "text/markdown"
