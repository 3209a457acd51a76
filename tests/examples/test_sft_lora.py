"""The textbook program runs as it stands, on the embedded model and text."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.demo.command import ASSETS
from keepstep.run import Run

PROGRAM = Path(__file__).parents[2] / "examples" / "sft_lora.py"


@pytest.mark.training
def test_it_keeps_the_best_two_and_really_resumes_from_the_best(tmp_path: Path) -> None:
    output = tmp_path / "run"
    command = [sys.executable, str(PROGRAM), "--model", str(ASSETS / "model"), "--data", str(ASSETS / "finetune.txt")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, "--output", str(output)], env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]

    best = re.search(r"^best: \S+/checkpoint-(\d+) ", done.stdout, re.MULTILINE)
    resumed = re.search(r"^resumed from step (\d+); now at step (\d+)$", done.stdout, re.MULTILINE)
    assert best and resumed
    assert resumed[1] == best[1]
    assert int(resumed[2]) > int(resumed[1])
    run = Run.open(output)
    assert "resumed" in [event["event"] for event in run.events.read()]
    assert len(run.checkpoints) <= 3
