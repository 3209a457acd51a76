"""ckpt-chaos at work on one training of ours, each start of it forked from a warm interpreter or a real one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FAILURES = "HARD_FAIL,SILENT_DIVERGENCE,LOST_WORK,CONTROL_FAIL"


def environment() -> dict[str, str]:
    """One thread, because only that comes through a fork; and where tests lie."""
    path = os.pathsep.join(filter(None, (os.fspath(ROOT), os.environ.get("PYTHONPATH"))))
    return {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


@contextmanager
def warm(kind: str) -> Iterator[list[str]]:
    """The beginning of a command line that a warm interpreter runs; `kind` is loop or trainer."""
    with tempfile.TemporaryDirectory() as place:  # a socket's path is to be short
        address = Path(place, kind)
        server = subprocess.Popen(
            [sys.executable, "-m", "tests.campaign.chaos.warm", os.fspath(address), kind],
            cwd=ROOT, env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            while not address.exists():
                if server.poll() is not None:
                    pytest.fail("the warm interpreter did not start")
                time.sleep(0.05)
            yield [sys.executable, "-S", os.fspath(Path(__file__).with_name("start.py")), os.fspath(address)]
        finally:
            server.kill()
            server.wait()


def thrown_at(command: list[str], result: str, work: Path, *, points: int = 1000) -> tuple[int, dict[str, int], str]:
    """The exit code, how often each verdict came (that of the run without a kill included), and the table."""
    options = [
        "--checkpoint-glob", "{out}/checkpoint-*", "--ckpt-ignore-size", "--step-regex", r"resumed from step (\d+)",
        "--result-file", f"{{out}}/{result}", "--fail-on", FAILURES, "--max-points", str(points),
        "--work", os.fspath(work),
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-m", "ckpt_chaos", "run", *options, "--", *command],
        cwd=ROOT, env=environment(), capture_output=True, text=True, check=False,
    )  # fmt: skip
    last = done.stdout.strip().rpartition("\n")[2]
    found = {verdict: int(number) for verdict, number in re.findall(r"([A-Z_]+): (\d+)", last)}
    assert found, done.stdout + done.stderr
    # What a background thread removes may come after the end, or be one more or less.
    assert done.stdout.count("DID NOT CRASH") <= 3, done.stdout
    return done.returncode, found, done.stdout
