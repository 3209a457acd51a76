"""What is installed: every file of the page, and the licence of what is in it from others."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import keepstep.web

REPOSITORY = Path(__file__).parents[2]
STATIC = Path(keepstep.web.__file__).parent / "static"


def test_a_wheel_has_every_file_of_the_page_and_its_licences(tmp_path: Path) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        pytest.skip("no uv is installed: what builds the wheel")
    # A copy: what builds may leave files beside what it reads.
    source, built = tmp_path / "source", tmp_path / "built"
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source)
    shutil.copytree(REPOSITORY / "src", source / "src", ignore=shutil.ignore_patterns("__pycache__"))
    # Nothing is fetched: who installed keepstep from a checkout has what builds it at hand.
    command = [uv, "build", "--wheel", "--offline", "--python", sys.executable, "--out-dir", str(built), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode != 0 and "hatchling" in done.stderr and "network was disabled" in done.stderr:
        pytest.skip("hatchling is not at hand, and nothing is fetched for a test")
    assert done.returncode == 0, done.stderr
    [wheel] = built.glob("*.whl")
    packed = set(zipfile.ZipFile(wheel).namelist())
    wanted = {f"keepstep/web/static/{path.relative_to(STATIC)}" for path in STATIC.rglob("*") if path.is_file()}
    assert "keepstep/web/static/vendor/uplot/LICENSE" in wanted and "keepstep/web/static/index.html" in wanted
    assert wanted <= packed, wanted - packed
