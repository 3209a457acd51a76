"""What others wrote is removed only after a person typed its name, and never the newest that is whole."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import pytest

from keepstep.errors import CheckpointCorrupt
from keepstep.operations.removing.pruning import plan_for, policy_for
from keepstep.operations.removing.thinning import ThinRefused
from keepstep.operations.removing.unmanaged import MayBeTraining, prune_unmanaged, thin_unmanaged
from keepstep.run import Run, StockRun
from tests.cli.conftest import Call, call  # noqa: F401  # pyright: ignore[reportUnusedImport]
from tests.cli.terminals import on_terminal
from tests.stock.written import checkpoint, everything_below, run_of


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return StockRun.open(run_of(tmp_path / "sft", (2, 4, 6, 8)))


def names(run: Run) -> list[str]:
    return sorted(os.listdir(run.path))


def prune(run: Run, keep: str) -> list[int]:
    policy = policy_for(run, keep, None, None)
    return [c.step for c in prune_unmanaged(run, policy, plan_for(run, policy)).removed]


def test_a_prune_removes_what_the_rules_drop(run: Run) -> None:
    assert prune(run, "latest:1") == [2, 4, 6]
    assert names(run) == ["checkpoint-8"]


def test_the_newest_that_is_whole_stays_whatever_is_newer(run: Run) -> None:
    home = run.path / "checkpoint-8"
    (home / "trainer_state.json").unlink()
    os.utime(home, (1_700_000_000, 1_700_000_000))
    assert prune(run, "best:1") == [2, 4]
    assert names(run) == ["checkpoint-6", "checkpoint-8"]


def test_a_flaw_that_only_its_checksum_shows_stops_the_prune(run: Run) -> None:
    optimizer = run.path / "checkpoint-8" / "optimizer.pt"
    data = bytearray(optimizer.read_bytes())
    data[data.index(bytes(range(100, 140)))] ^= 1
    optimizer.write_bytes(data)
    with pytest.raises(CheckpointCorrupt):
        prune(run, "latest:1")
    assert len(names(run)) == 4


def test_what_was_saved_a_moment_ago_may_be_in_training(run: Run) -> None:
    checkpoint(run.path, 10, at=int(time.time()))
    with pytest.raises(MayBeTraining):
        prune(StockRun.open(run.path), "latest:1")
    assert len(names(run)) == 5


def test_a_thin_leaves_weights_under_a_name_of_their_own(run: Run) -> None:
    done = thin_unmanaged(run, "4")
    assert done.freed_bytes > 0
    assert sorted(os.listdir(run.path / "weights-4")) == ["config.json", "model.safetensors", "trainer_state.json"]
    assert "checkpoint-4" not in names(run)
    with pytest.raises(ThinRefused):
        thin_unmanaged(run, "8")


@pytest.mark.parametrize(("typed", "left"), [(b"sft\r", 1), (b"yes\r", 4)])
def test_a_person_types_the_name_of_the_directory(run: Run, typed: bytes, left: int) -> None:
    def keys(shown: bytes) -> bytes:
        return typed if shown.endswith(b"to go on: ") else b""

    command = [sys.executable, "-m", "keepstep", "prune", os.fspath(run.path), "--keep", "latest:1", "--unmanaged"]
    code, shown = on_terminal(command, keys=keys)
    assert (code, len(names(run))) == (0, left), shown


def test_without_a_terminal_nobody_types_a_name(call: Call, run: Run) -> None:  # noqa: F811
    before = everything_below(run.path)
    for command in (("prune", "--keep", "latest:1", "--unmanaged", "--yes"), ("thin", "4", "--unmanaged")):
        result = call(command[0], run.path, *command[1:])
        assert "asks on a terminal" in result.output
    assert everything_below(run.path) == before
