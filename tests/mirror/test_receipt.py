"""A resume on an empty machine says where its checkpoint came from, and what was passed over there."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.cli.main import main
from keepstep.mirror import open_mirror
from keepstep.run import Receipt, Run
from tests.operations.runs import write


def _begin(path: Path, mirror: Path) -> Checkpointer:
    checkpointer = Checkpointer(path, "all", mirror=mirror)
    point = checkpointer.begin("auto")
    if point is not None:
        checkpointer.note_resumed(Receipt(point.checkpoint.step, str(point.path)))
    return checkpointer


def _said(*arguments: object) -> str:
    done = CliRunner().invoke(main, list(map(str, arguments)), prog_name="keepstep")
    assert done.exit_code == 0, done.output
    return " ".join(done.stdout.split())


def test_the_receipt_names_the_mirror_and_what_was_passed_over(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, mirror = tmp_path / "run", tmp_path / "mirror"
    first = _begin(path, mirror)
    assert first.receipt is None
    for step in (10, 20, 30):
        first.save(Facts(step), write)
    first.close()
    newest = open_mirror(mirror).records()[0]
    (file, *_) = newest.checkpoint.files
    (mirror / newest.home / file.path).write_bytes(b"\0" * file.size)
    shutil.rmtree(path)
    again = _begin(path, mirror)
    receipt = again.receipt
    assert receipt is not None and receipt.brought is not None
    brought = receipt.brought
    assert (brought.origin, brought.step, brought.generation) == (open_mirror(mirror).url, 20, 2)
    assert brought.size_bytes == Run.open(path).checkpoints[0].size_bytes and brought.seconds > 0
    (passed,) = brought.passed_over
    assert passed.endswith("step 30 is passed over") and file.path in passed and passed in caplog.text
    line = f"brought here from the mirror {brought.origin}: step 20, 1.0 kB in "
    assert any(text.startswith(line) for text in receipt.lines()) and f"passed over there: {passed}" in receipt.lines()
    # What is damaged there keeps its number: what is trained anew gets there all the same.
    again.save(Facts(30), write)
    again.close()
    assert [(r.checkpoint.step, r.name.generation) for r in open_mirror(mirror).records()][:2] == [(30, 4), (30, 3)]
    (event,) = [one for one in Run.open(path).events.read() if one["event"] == "resumed"]
    assert event["brought"] == brought.to_json()
    assert line in _said("show", path, "20") and "brought here from the mirror" in _said("events", path)
    # What is here by now came from nowhere.
    third = _begin(path, mirror)
    assert third.receipt is not None and third.receipt.brought is None
    third.close()


def test_a_mirror_in_which_nothing_was_committed_yet_brings_nothing(tmp_path: Path) -> None:
    path, mirror = tmp_path / "run", tmp_path / "mirror"
    _begin(path, mirror).close()
    assert (mirror / "mirror.json").exists() and open_mirror(mirror).records() == ()
    shutil.rmtree(path)
    fresh = _begin(path, mirror)
    assert fresh.receipt is None and fresh.run.checkpoints == ()
    fresh.close()
