"""What a training says on a terminal: whole words, beside a progress bar, in lines that fit."""

from __future__ import annotations

import re
import sys

import pytest

pytest.importorskip("tqdm")

from tests.cli.terminals import on_terminal

SCRIPT = """
from tqdm import tqdm
from keepstep.integrations.transformers.setup.messages import logger, make_visible
make_visible()
for number in tqdm(range(3), mininterval=0):
    logger.info("word " * 12 + "/a/path/" + "x" * 70)
"""


@pytest.mark.parametrize("width", [30, 60])
def test_lines_fold_below_themselves(width: int) -> None:
    code, shown = on_terminal([sys.executable, "-c", SCRIPT], size=(24, width))
    assert code == 0
    lines = [
        re.sub(r"\x1b\[.", "", line).rpartition("\r")[2].rstrip() for line in shown.replace("\r\n", "\n").split("\n")
    ]
    said = [line for line in lines if line.startswith(("keepstep: ", " " * 10))]
    assert sum(line.startswith("keepstep: word") for line in said) == 3
    assert all(len(line) <= max(width, 40) or line.strip().startswith("/a/path/") for line in said)
    assert sum(line.count("word") for line in said) == 36
    assert sum("x" * 70 in line for line in said) == 3


def test_a_file_gets_one_line_a_message() -> None:
    import subprocess

    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=True, timeout=60)
    assert sum("word /a/path" in line for line in done.stderr.splitlines()) == 3
