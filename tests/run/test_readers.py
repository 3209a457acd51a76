"""What somebody reads is not removed meanwhile, and what a dead reader read is."""

from __future__ import annotations

import errno
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.run.readers import Readers
from keepstep.stores import LocalStore
from tests.operations.runs import make_run

NEWEST = Policy.from_spec("latest:1")
READER = """
import sys, time
from keepstep.run import Run
with Run.open(sys.argv[1]).readers.reading([1, 2], "being exported"):
    print("reading", flush=True)
    time.sleep(600)
"""


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {10: 0.5, 20: 0.4, 30: 0.3})


def _left(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints]


def test_what_is_read_stays_with_the_reason_and_goes_afterwards(run: Run) -> None:
    with run.readers.reading([1], "being exported"):
        plan = run.plan(NEWEST)
        assert [checkpoint.step for checkpoint in plan.remove] == [20]
        assert plan.reasons(1) == ("being exported",)
    assert [checkpoint.step for checkpoint in run.plan(NEWEST).remove] == [10, 20]
    assert list((run.path / layout.READERS).iterdir()) == []


def test_who_begins_to_read_after_the_plan_is_heard(run: Run) -> None:
    with run.writing():
        plan = run.plan(NEWEST)
        with run.readers.reading([2], "being exported"):
            done = apply_plan(run, plan)
    assert [checkpoint.step for checkpoint in done.spared] == [20]
    assert _left(run) == [20, 30]


def test_two_readers_do_not_end_each_other(run: Run) -> None:
    with run.readers.reading([1], "one"):
        with run.readers.reading([1, 2], "two"):
            assert run.readers.read().keys() == {1, 2}
        assert run.readers.read() == {1: "one"}
    assert run.readers.read() == {}


def test_a_reader_that_was_killed_holds_nothing(run: Run) -> None:
    with subprocess.Popen([sys.executable, "-c", READER, str(run.path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "reading\n"
        assert run.readers.read() == {1: "being exported", 2: "being exported"}
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert run.readers.read() == {}
    assert list((run.path / layout.READERS).iterdir()) == []


def test_a_damaged_note_and_a_run_that_takes_none_stop_nobody(run: Run) -> None:
    with run.readers.reading([1], "being exported"):
        note = next((run.path / layout.READERS).glob("*.json"))
        note.write_bytes(b"{")
        assert run.readers.read() == {}
    (run.path / layout.READERS).rmdir()
    (run.path / layout.READERS).write_bytes(b"in the way")
    with run.readers.reading([1], "being exported"):
        assert run.readers.read() == {}


def test_a_full_disk_that_takes_no_note_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    class Full(LocalStore):
        def replace(self, path: str, data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    with Readers(Full(tmp_path)).reading([1], "being exported"):
        assert "the disk is full: a training may remove what is being exported" in caplog.text
