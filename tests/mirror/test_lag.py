"""How far a mirror is behind is seen without asking it; what never gets there, and what is missing, is said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from datetime import timedelta
from pathlib import Path

import pytest
from click.testing import CliRunner
from prometheus_client import generate_latest

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.checkpointer.stopping.told import Told
from keepstep.cli.main import main
from keepstep.operations.doctor import examine_run
from keepstep.operations.seeing import mirrored
from keepstep.operations.seeing.mirrored import Standing, mirrored_of
from keepstep.prometheus import registry
from keepstep.run import Run, read_note
from tests.mirror.gate import Gate, seen, told, until
from tests.operations.runs import write


def call(*arguments: object) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)), prog_name="keepstep")
    assert done.exit_code in (0, 4), done.output
    return done.stdout


def test_every_view_says_how_far_the_mirror_is_behind(
    tmp_path: Path, gate: type[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    path, url = tmp_path / "run", str(tmp_path / "mirror")
    checkpointer = Checkpointer(path, "all", mirror=url)
    checkpointer.begin("auto")
    gate.through.set()
    checkpointer.save(Facts(10), write)
    until(lambda: seen(path).standing is Standing.WHOLE)
    assert (seen(path).lag, seen(path).waiting, seen(path).note.newest.step) == (0.0, (), 10)  # type: ignore[union-attr]
    gate.through.clear()
    gate.busy.clear()
    checkpointer.save(Facts(20), write)
    checkpointer.save(Facts(30), write)
    assert gate.busy.wait(60)
    until(lambda: seen(path).standing is Standing.SENDING)
    now = seen(path)
    size = Run.open(path).checkpoints[0].size_bytes
    assert [c.step for c in now.waiting] == [30, 20] and now.waiting_bytes == 2 * size and now.lag_steps == 20
    first = Run.open(path).checkpoints[0].created.timestamp()
    assert now.lag == pytest.approx(now.now - first) and now.lag > 0
    # Nothing below may ask the place: it does not answer from here on.
    gate.up.clear()
    found = json.loads(call("status", path, "--format", "json"))["mirror"]
    assert (found["waiting"], found["waiting_bytes"], found["newest_step"], found["url"]) == (2, 2 * size, 10, url)
    for words in (call("status", path), call("watch", path, "--once"), call("ls", path, "--format", "human")):
        assert "is on its way to" in " ".join(words.split()) and "the newest there is step 10" in " ".join(
            words.split()
        )
    assert f"it is in the mirror {url}" in " ".join(call("show", path, "10").split())
    assert f"it waits to go to {url}" in " ".join(call("show", path, "20").split())
    assert json.loads(call("show", path, "10", "--format", "json"))["mirror"] == {"url": url, "has": True}
    metrics = generate_latest(registry(lambda: [path])).decode()
    assert f'keepstep_mirror_waiting_bytes{{run="run",run_id="{checkpointer.run.id}"}} {2.0 * size}' in metrics
    assert "keepstep_mirror_up{" in metrics and "keepstep_mirror_last_success_timestamp_seconds{" in metrics
    lag = next(line for line in metrics.splitlines() if line.startswith("keepstep_mirror_lag_seconds{"))
    assert float(lag.split()[-1]) > 0
    assert not any(one.rule.id == "W709" for one in examine_run(Run.open(path)).findings)
    monkeypatch.setattr(mirrored, "BEHIND_LONG", 0.0)
    finding = next(one for one in examine_run(Run.open(path)).findings if one.rule.id == "W709")
    assert "the newest there is step 10" in finding.what
    gate.up.set()
    gate.through.set()
    checkpointer.close()
    assert seen(path).standing is Standing.WHOLE
    assert not any(one.rule.id == "W709" for one in examine_run(Run.open(path)).findings)


def test_an_outage_is_seen_with_its_beginning_and_what_goes_meanwhile_is_said(
    tmp_path: Path, gate: type[Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "run"
    gate.up.clear()
    gate.through.set()
    checkpointer = Checkpointer(path, "latest:1", mirror=tmp_path / "mirror", mirror_wait="60s")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    until(lambda: seen(path).standing is Standing.DOWN)
    down = seen(path)
    assert not down.up and down.note.trouble == "no answer from the place" and down.lag > 0
    assert "has not answered for" in call("status", path) and "1 checkpoint" in down.text
    assert [one.rule.id for one in examine_run(Run.open(path)).findings if one.rule.id == "W709"] == []
    monkeypatch.setattr(mirrored, "DOWN_LONG", 0.0)
    assert "W709" in [one.rule.id for one in examine_run(Run.open(path)).findings]
    checkpointer.save(Facts(2), write)
    checkpointer.save(Facts(3), write)
    gate.up.set()
    checkpointer.close()
    assert seen(path).standing is Standing.WHOLE and not seen(path).note.trouble
    skipped = [step for event in told(path, "mirror_skipped") for step in event["steps"]]
    assert sorted(skipped) == [1, 2] and [e["step"] for e in told(path, "mirrored")] == [3]
    assert "never sent: steps" in call("events", path)


def test_what_the_mirrors_own_policy_leaves_out_meanwhile_is_said_once(tmp_path: Path, gate: type[Gate]) -> None:
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, "all", mirror=tmp_path / "mirror", mirror_keep="latest:1")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    assert gate.busy.wait(60)
    for step in (2, 3, 4):
        checkpointer.save(Facts(step), write)
    gate.through.set()
    checkpointer.close()
    assert [(e["steps"], e["generations"]) for e in told(path, "mirror_skipped")] == [([2, 3], [2, 3])]
    assert [e["step"] for e in told(path, "mirrored")] == [1, 4] and seen(path).waiting == ()


def test_a_deadline_ends_the_wait_and_what_is_not_there_is_said(
    tmp_path: Path, gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, "all", mirror=tmp_path / "mirror", mirror_wait="10m", preempt_deadline="5s")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    checkpointer.save(Facts(2), write)
    checkpointer.stopping.tell(Told("SIGTERM", signal.SIGTERM))
    began = time.monotonic()
    checkpointer.close()
    assert time.monotonic() - began < 60  # and not the ten minutes of mirror_wait
    assert "The mirror lacks steps 2, 1 (" in caplog.text
    assert f"keepstep mirror sync {path} {tmp_path / 'mirror'}" in caplog.text
    assert not Run.open(path).lock.in_use
    finding = next(one for one in examine_run(Run.open(path)).findings if one.rule.id == "W709")
    assert "nobody trains" in finding.what and "2 checkpoints" in finding.what
    gate.through.set()


def test_ctrl_c_while_the_end_waits_is_the_end_of_the_wait(
    tmp_path: Path, gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    """Where signals are heard: the Trainer's way. A loop without them gets its KeyboardInterrupt."""
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, "all", mirror=tmp_path / "mirror")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    threading.Timer(3.0, lambda: checkpointer.stopping.tell(Told("SIGINT", signal.SIGINT))).start()
    began = time.monotonic()
    checkpointer.close()
    assert time.monotonic() - began < 120
    assert "Waiting for the mirror, at most 10 min (Ctrl-C: not at all)" in caplog.text
    assert "The mirror lacks step 1" in caplog.text
    gate.through.set()


_STUCK = """
import sys, time
from contextlib import nullcontext
import keepstep.mirror.mirror as place
from keepstep.checkpointer import Checkpointer, Facts, Signals
from keepstep.mirror import DirectoryObjects
class Stuck(DirectoryObjects):
    def put(self, key, pieces, size):
        print("stuck", flush=True)
        time.sleep(3600)
place.DirectoryObjects = Stuck
run, mirror, wait, hears = sys.argv[1:]
ckpt = Checkpointer(run, "all", mirror=mirror, mirror_wait=wait)
with ckpt.stopping.hearing(Signals()) if hears == "yes" else nullcontext():
    ckpt.begin("auto")
    ckpt.save(Facts(1), lambda d: (d / "model.safetensors").write_bytes(b"1" * 100))
    input()
    ckpt.close()
print("closed", flush=True)
"""


@pytest.mark.parametrize(
    ("wait", "hears", "before", "meanwhile", "code"),
    [
        ("1s", "no", False, False, 0),  # the wait is over
        ("10m", "no", False, True, -signal.SIGINT),  # KeyboardInterrupt out of close()
        ("10m", "yes", False, True, 0),  # the Trainer's way: not waited for any more, and the script goes on
        ("10m", "yes", True, True, -signal.SIGINT),  # the second Ctrl-C ends it at once
    ],
)
@pytest.mark.quick(1)
def test_a_process_ends_though_a_transfer_hangs(
    tmp_path: Path, *, wait: str, hears: str, before: bool, meanwhile: bool, code: int
) -> None:
    command = [sys.executable, "-c", _STUCK, str(tmp_path / "run"), str(tmp_path / "mirror"), wait, hears]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **pipes) as process:  # type: ignore[call-overload]
        assert process.stdout.readline() == "stuck\n"
        if before:
            os.kill(process.pid, signal.SIGINT)
        process.stdin.write("\n")
        process.stdin.flush()
        errors = ""
        while meanwhile and "Waiting for the mirror" not in errors:
            errors += process.stderr.readline()
        if meanwhile:
            os.kill(process.pid, signal.SIGINT)
        out, rest = process.communicate(timeout=60)
    assert process.returncode == code, rest
    assert ("closed" in out) is (code == 0)
    assert ("The mirror lacks step 1" in rest) is not before
    assert [c.step for c in Run.open(tmp_path / "run").checkpoints] == [1]


def test_a_second_training_of_a_process_is_not_taken_for_a_stranger(
    tmp_path: Path, gate: type[Gate], caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, "all", mirror=tmp_path / "mirror", mirror_wait="1ms")
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    assert gate.busy.wait(60)
    checkpointer.close()  # step 1 is still on its way
    checkpointer.begin("auto")
    checkpointer.save(Facts(2), write)
    gate.through.set()
    until(lambda: seen(path).standing is Standing.WHOLE)
    checkpointer.close()
    assert "Nothing is mirrored any more" not in caplog.text and told(path, "mirror_lost") == []


def test_a_note_of_another_run_or_a_damaged_one_says_nothing(tmp_path: Path) -> None:
    path = tmp_path / "run"
    with Checkpointer(path, "all", mirror=tmp_path / "mirror") as checkpointer:
        checkpointer.begin("auto")
        checkpointer.save(Facts(1), write)
    note, file = read_note(Run.open(path).store), path / ".keepstep" / "mirrored.json"
    assert note is not None and note.there == {1}
    assert note.arrived is not None and timedelta(seconds=time.time() - note.arrived) < timedelta(hours=1)
    file.write_bytes(file.read_bytes().replace(note.run_id.encode(), b"0" * len(note.run_id)))
    run = Run.open(path)
    assert mirrored_of(run, run.checkpoints, alive=False) is None
    file.write_bytes(b"{")
    assert read_note(run.store) is None and "Mirror" not in call("status", path)
