"""FSDP2 on the fast way: the files of the stock writers to the byte, resumes to the bit, failures told to all ranks."""

from __future__ import annotations

import errno
import signal
from collections import Counter
from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from tests.sharded.faults import Fault
from tests.sharded.legs import FULL, Leg, outcome, ride
from tests.shards.counted import AGREED
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]

STOCK, FAST = {"engine": "stock"}, {"engine": "fast"}
ROOMS = ("pytorch_model_fsdp_0", "optimizer_0")
SHARDS = [f"{room}/__{rank}_0.distcp" for room in ROOMS for rank in range(2)]
LEGS = (
    Leg("stock", keepstep=STOCK),
    Leg("fast", counted=True),
    Leg("resumed", copy="fast", upto=4),
    Leg("stock goes on", keepstep=STOCK, copy="fast", upto=2),
    Leg("once", faults=((1, Fault("copies", errno.EIO, nth=3)),)),
    Leg("once, at the end", arguments={"save_steps": 6}, faults=((0, Fault("copies", errno.EIO)),)),
    Leg("for ever", faults=((1, Fault("copies", errno.EIO, forever=True)),)),
    Leg("changed", faults=((1, Fault("copy", "change")),)),
    Leg("changed, asked to be fast", keepstep=FAST, faults=((1, Fault("copy", "change")),)),
    Leg("refused", faults=((1, Fault("plans", "refuse")), (1, Fault("file of the imprint", errno.EIO)))),
    Leg("no memory", keepstep={"arena": "0.01 MB"}),
    Leg("gathered, asked to be fast", state=FULL, keepstep=FAST),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where all legs are carried out, by two processes that are started once."""
    path = tmp_path_factory.mktemp("fast")
    codes = ride(path, *LEGS)
    assert codes == [0, 0], logs_of(path)
    return path


def said(home: Path, leg: str, rank: int = 0) -> str:
    """What a rank said in a leg."""
    return (home / f"log-{rank}").read_text().partition(f"LEG {leg}\n")[2].partition("LEG ")[0]


def test_each_rank_writes_what_the_stock_writers_write(home: Path) -> None:
    for step in (2, 4, 6):
        ours, theirs = (home / leg / f"checkpoint-{step}" for leg in ("fast", "stock"))
        for path in SHARDS:
            assert (ours / path).read_bytes() == (theirs / path).read_bytes(), (step, path)
        assert {path.name for path in ours.iterdir()} == {path.name for path in theirs.iterdir()}


def test_plans_are_made_once_while_the_learning_rate_changes(home: Path) -> None:
    for room in ROOMS:
        found = {
            leg: {(home / leg / f"checkpoint-{step}" / room / ".metadata").read_bytes() for step in (2, 4, 6)}
            for leg in ("fast", "stock")
        }
        # Each planning has an identifier of its own.
        assert (len(found["fast"]), len(found["stock"])) == (1, 3)
    for rank in range(2):
        first, *others = outcome(home, "fast", rank).sent
        # torch's two saves have four collectives each.
        assert Counter(first) == Counter(AGREED) + Counter(
            gather_object=4, scatter_object_list=2, broadcast_object_list=2
        )
        assert others == [AGREED] * 2


def test_what_is_used_is_said(home: Path) -> None:
    assert "fast engine, 2 processes" in said(home, "fast")
    assert "stock engine, 2 processes" in said(home, "stock")
    one = outcome(home, "gathered, asked to be fast", 1)
    assert one.kind == "SettingsError"
    assert "FULL_STATE_DICT gathers" in one.error


@pytest.mark.parametrize(
    "leg", ["fast", "resumed", "stock goes on", "once", "once, at the end", "changed", "refused", "no memory"]
)
def test_all_come_to_the_same(home: Path, leg: str) -> None:
    for rank in range(2):
        one, reference = outcome(home, leg, rank), outcome(home, "stock", rank)
        assert not one.error, one
        assert (one.weights, one.optimizer, one.history) == (reference.weights, reference.optimizer, reference.history)
    run = keepstep.Run.open(home / leg)
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints)
    assert run.checkpoints[-1].step == 6


@pytest.mark.parametrize(("leg", "step"), [("resumed", 4), ("stock goes on", 2)])
def test_a_resume_is_exact_to_the_bit_and_proved_on_all_ranks(home: Path, leg: str, step: int) -> None:
    receipt = outcome(home, leg).receipt
    assert receipt is not None
    assert (receipt["level"], receipt["step"]) == ("exact", step)
    assert "equal what was saved, on 2 ranks" in receipt["compared"]


def test_what_fails_once_is_made_good_by_a_save_of_all(home: Path) -> None:
    for leg, lost in (("once", 4), ("once, at the end", 0)):
        run = keepstep.Run.open(home / leg)
        assert any(event["event"] == "failed" for event in run.events.read()), leg
        steps = [checkpoint.step for checkpoint in run.checkpoints]
        assert lost not in steps and steps[-1] == 6, leg


def test_what_fails_for_ever_ends_all_with_the_step_the_rank_and_the_error(home: Path) -> None:
    for rank in range(2):
        one = outcome(home, "for ever", rank)
        assert one.kind == "StorageError", one
        assert "could not be written by rank 1: Input/output error" in one.error


def test_what_one_rank_can_not_copy_the_stock_writers_write_and_its_own_failure_is_told_to_all(home: Path) -> None:
    assert "a tensor of a new kind" in said(home, "refused")
    run = keepstep.Run.open(home / "refused")
    failed = [event for event in run.events.read() if event["event"] == "failed"]
    assert len(failed) == 1 and "rank 1" in failed[0]["error"], failed
    assert [checkpoint.step for checkpoint in run.checkpoints][-1] == 6


def test_a_change_under_the_copy_of_one_rank_is_told_to_all(home: Path) -> None:
    assert "the stock writers save from here on" in said(home, "changed")
    assert [checkpoint.step for checkpoint in keepstep.Run.open(home / "changed").checkpoints][-1] == 6
    for rank in range(2):
        one = outcome(home, "changed, asked to be fast", rank)
        assert one.kind == "StateChangedError", one
        assert "was changed while it was being saved" in one.error


def test_without_memory_for_a_copy_the_optimizer_waits_for_the_disk(home: Path) -> None:
    assert "the next optimizer step waits for the disk" in said(home, "no memory", 1)


@pytest.mark.long
def test_a_rank_that_dies_while_it_writes_costs_nothing_that_was_committed(tmp_path: Path) -> None:
    limits = (0.3, 4.0, 3.0)
    kill = Leg("killed", limits=limits, arguments={"save_steps": 2}, faults=((1, Fault("copies", "kill", nth=3)),))
    assert ride(tmp_path, kill)[1] == -signal.SIGKILL, logs_of(tmp_path)
    assert ride(tmp_path, Leg("whole", keepstep=STOCK), Leg("on", copy="killed", upto=6)) == [0, 0], logs_of(tmp_path)
    one, whole = outcome(tmp_path, "on"), outcome(tmp_path, "whole")
    assert one.receipt is not None and (one.receipt["level"], one.receipt["step"]) == ("exact", 2)
    assert (one.weights, one.optimizer, one.history) == (whole.weights, whole.optimizer, whole.history)
