"""The textbook program runs as it stands, on the embedded model and text."""

from __future__ import annotations

import re
import runpy
import sys
from pathlib import Path

import pytest

from keepstep.demo.command import ASSETS
from keepstep.run import Run
from tests.training import processes

PROGRAM = Path(__file__).parents[2] / "examples" / "sft_lora.py"


def _run(arguments: list[str]) -> None:
    from tests.training.course import settle

    settle()
    sys.argv = [str(PROGRAM), *arguments]
    runpy.run_path(str(PROGRAM), run_name="__main__")


@pytest.mark.training
@pytest.mark.long
def test_it_keeps_the_best_two_and_really_resumes_from_the_best(tmp_path: Path) -> None:
    output, log = tmp_path / "run", tmp_path / "log"
    arguments = ["--model", str(ASSETS / "model"), "--data", str(ASSETS / "finetune.txt"), "--output", str(output)]
    code = processes.call(_run, arguments, log=log)
    printed = log.read_text()
    assert code == 0, printed[-3000:]

    best = re.search(r"^best: \S+/checkpoint-(\d+) ", printed, re.MULTILINE)
    resumed = re.search(r"^resumed from step (\d+); now at step (\d+)$", printed, re.MULTILINE)
    assert best and resumed
    assert resumed[1] == best[1]
    assert int(resumed[2]) > int(resumed[1])
    run = Run.open(output)
    assert "resumed" in [event["event"] for event in run.events.read()]
    assert len(run.checkpoints) <= 3
