"""`keepstep export` in processes of its own: its report, its exit codes, and a Ctrl-C in the middle."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.training.exported import complaints, files_in, llama, make_run

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]

KEEPSTEP = [sys.executable, "-m", "keepstep", "export"]


def test_a_report_for_people_and_one_for_programs(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: llama(1), 20: llama(2)})
    data = tmp_path / "held-out.jsonl"
    data.write_text("".join(json.dumps({"text": f"w{n} w{n + 1} w{n + 2}"}) + "\n" for n in range(30)))
    command = [*KEEPSTEP, str(run.path), str(tmp_path / "out"), "--average", "best:2", "--eval-data", str(data)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    for part in (
        "exported    model, average of steps 10, 20, float32",
        "checked     loaded by LlamaForCausalLM",
        "10 + 20",
    ):
        assert part in done.stdout
    command = [*KEEPSTEP, str(run.path), "best", str(tmp_path / "out"), "--force", "--format", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    said = json.loads(done.stdout)
    assert (said["steps"], said["check"]["forward"]["max_difference"]) == ([10], 0.0)
    assert {entry["path"] for entry in said["files"]} == files_in(tmp_path / "out")


def test_ctrl_c_leaves_nothing_half(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: llama(1)})
    command = [*KEEPSTEP, str(run.path), "10", str(tmp_path / "out"), "--dtype", "bf16"]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ)
    while not list(tmp_path.glob(".out.*.exporting")):
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert (process.returncode, complaints(said)) == (130, ["keepstep: interrupted"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
