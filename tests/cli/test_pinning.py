"""Tests of `keepstep pin`, `unpin` and `tag`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2})


def test_pin_and_unpin(run: Run, call: Call) -> None:
    assert "step 1 is pinned" in call("pin", run.path, "best").stdout
    assert "was pinned already" in call("pin", run.path, "1").stdout
    assert run.pins.pinned == {1}
    assert "is unpinned" in call("unpin", run.path, "1").stdout
    assert "was not pinned" in call("unpin", run.path, "1").stdout
    assert run.pins.pinned == frozenset()


def test_tag_moves_and_goes(run: Run, call: Call) -> None:
    assert call("tag", run.path, "1", "v1").stdout == "step 1 is tagged 'v1'\n"
    assert "had the tag" in call("tag", run.path, "1", "v1").stdout
    assert "which named another one before" in call("tag", run.path, "2", "v1").stdout
    assert run.pins.tags == {"v1": 2}
    assert "1 tag dropped: v1" in call("unpin", run.path, "v1").stdout


def test_json(run: Run, call: Call) -> None:
    call("pin", run.path, "2")
    assert json.loads(call("tag", run.path, "2", "v1", "--format", "json").stdout) == {
        "step": 2, "generation": 2, "pinned": True, "tags": ["v1"], "changed": True,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code"), [(("tag", "1", "best"), 2), (("tag", "1", "1st"), 2), (("pin", "9"), 3), (("tag", "1"), 2)]
)
def test_refused(run: Run, call: Call, arguments: tuple[str, ...], code: int) -> None:
    command, *rest = arguments
    assert call(command, run.path, *rest).exit_code == code
    assert run.pins.held == frozenset()
