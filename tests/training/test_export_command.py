"""`keepstep export` in processes of its own: its report, its exit codes, and a Ctrl-C in the middle."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from keepstep.integrations.transformers.exporting import exporter
from tests.training.commands import Shell
from tests.training.exported import complaints, files_in, llama, make_run

pytestmark = [pytest.mark.training, pytest.mark.filterwarnings("ignore")]


def test_a_report_for_people_and_one_for_programs(tmp_path: Path, shell: Shell) -> None:
    run = make_run(tmp_path / "run", {10: llama(1), 20: llama(2)})
    data = tmp_path / "held-out.jsonl"
    data.write_text("".join(json.dumps({"text": f"w{n} w{n + 1} w{n + 2}"}) + "\n" for n in range(30)))
    done = shell.run("export", run.path, tmp_path / "out", "--average", "best:2", "--eval-data", data)
    assert (done.returncode, complaints(done.stderr)) == (0, [])
    for part in (
        "exported    model, average of steps 10, 20, float32",
        "checked     loaded by LlamaForCausalLM",
        "10 + 20",
    ):
        assert part in done.stdout
    said = json.loads(shell.run("export", run.path, "best", tmp_path / "out", "--force", "--format", "json").stdout)
    assert (said["steps"], said["check"]["forward"]["max_difference"]) == ([10], 0.0)
    assert {entry["path"] for entry in said["files"]} == files_in(tmp_path / "out")


def _check_for_long() -> None:
    """As with a large model: everything is written, and nothing published."""

    def wait(*_: Any) -> None:
        time.sleep(100)

    exporter.check_export = wait


def test_ctrl_c_leaves_nothing_half(tmp_path: Path, shell: Shell) -> None:
    run = make_run(tmp_path / "run", {10: llama(1)})
    command = shell.begin("export", run.path, 10, tmp_path / "out", "--dtype", "bf16", before=_check_for_long)
    while not list(tmp_path.glob(".out.*.exporting/model.safetensors")):
        assert command.process.is_alive()
        time.sleep(0.005)
    command.send(signal.SIGINT)
    done = command.end()
    assert (done.returncode, complaints(done.stderr)) == (130, ["keepstep: interrupted"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run"]
