"""The disk fails one of two ranks, once and for ever, in every phase of a save: both hear of it, and nothing is lost.

`KEEPSTEP_TEST_RANK_DISKS` is how many of the cases are played, spread evenly; "all" plays all of them.
"""

from __future__ import annotations

import errno
import itertools
import os
from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from tests.campaign.test_failing_disks import mounted
from tests.sharded.faults import Fault
from tests.sharded.legs import Leg, Outcome, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.timeout(3600),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]
CHOSEN = os.environ.get("KEEPSTEP_TEST_RANK_DISKS", "6")
BY_ALL = ("shards", "torch.save", "makedirs", "loop state", "sync")
BY_LEAD = ("metadata", "manifest", "rename")
"""Places to which rank 0 alone comes."""
CASES = [
    (place, rank, number, forever)
    for number, forever in itertools.product((errno.EIO, errno.ENOSPC), (False, True))
    for place, rank in (*itertools.product(BY_ALL, (1, 0)), *((place, 0) for place in BY_LEAD))
]
AT_ONCE = 8
"""Trainings in processes that are started once."""


def name_of(place: str, rank: int, number: int, forever: bool) -> str:
    return f"{place} {rank} {errno.errorcode[number]} {'for ever' if forever else 'once'}"


def writers_of(place: str) -> dict[str, str]:
    """Shards are written by the stock writers where it is they that fail; of the copies, see tests/sharded."""
    return {"engine": "stock"} if place in ("shards", "metadata") else {}


def both(home: Path, leg: str) -> list[Outcome]:
    return [outcome(home, leg, rank) for rank in range(2)]


def same(one: Outcome, other: Outcome) -> bool:
    return (one.weights, one.optimizer, one.history) == (other.weights, other.optimizer, other.history)


def test_what_fails_on_one_rank_is_told_on_both(place: Path) -> None:
    count = len(CASES) if CHOSEN == "all" else min(int(CHOSEN), len(CASES))
    cases = [CASES[(2 * number + 1) * len(CASES) // (2 * count)] for number in range(count)]
    legs = [
        Leg(
            name_of(*case),
            faults=((case[1], Fault(case[0], case[2], forever=case[3])),),
            copy="whole",
            upto=2,
            keepstep=writers_of(case[0]),
        )
        for case in cases
    ]
    assert ride(place, Leg("whole")) == [0, 0], logs_of(place)
    for begin in range(0, len(legs), AT_ONCE):
        assert ride(place, *legs[begin : begin + AT_ONCE]) == [0, 0], logs_of(place)
    for case, leg in zip(cases, legs, strict=True):
        check(place, leg.name, case)
    print(f"{len(cases)} failures of one rank's disk: both heard of each, no hang, nothing lost")


def check(home: Path, leg: str, case: tuple[str, int, int, bool]) -> None:
    """Once: written anew, to the same bits. For ever: an error that names rank and cause, on both; without room the
    training comes to its end first. What is committed is whole.
    """
    place, rank, number, forever = case
    for each, one in enumerate(both(home, leg)):
        if not forever:
            assert not one.error and same(one, outcome(home, "whole", each)), (leg, one)
        elif number == errno.ENOSPC:
            assert (one.kind, one.step) == ("DiskFull", 6) and "refused" in one.error, (leg, one)
        else:
            assert one.kind == "StorageError" and "Input/output error" in one.error, (leg, one)
            if place in BY_ALL:
                assert f"could not be written by rank {rank}: " in one.error, (leg, one)
    run = keepstep.Run.open(home / leg)
    assert [checkpoint.step for checkpoint in run.checkpoints] == ([2] if forever else [2, 4, 6]), leg
    assert all(run.verify(checkpoint).ok for checkpoint in run.checkpoints), leg


def test_a_disk_that_is_full_is_no_end(tmp_path: Path) -> None:
    """A real one, which one rank fills in mid-save, to the last bytes: the training ends, and goes on where it was."""
    with mounted(tmp_path / "small", "size=48m") as small:
        faults = [
            ("shards", 1, 0), ("shards", 0, 20_000), ("torch.save", 1, 8_192), ("torch.save", 0, 4_096),
            ("loop state", 1, 4_096), ("sync", 0, 0),
        ]  # fmt: skip
        legs = [
            Leg(f"full {number}", copy="whole", upto=2, keepstep=writers_of(place),
                faults=((rank, Fault(place, "fill", ballast=str(small / "ballast"), leave=leave)),))
            for number, (place, rank, leave) in enumerate(faults)
        ]  # fmt: skip
        again = [Leg(f"{leg.name} again", copy=leg.name, upto=99) for leg in legs]
        assert ride(small, Leg("whole"), *legs, *again) == [0, 0], logs_of(small)
        for leg, fault in zip(legs, faults, strict=True):
            for one in both(small, leg.name):
                assert (one.kind, one.step) == ("DiskFull", 6), (fault, one)
            for rank, one in enumerate(both(small, f"{leg.name} again")):
                assert not one.error and same(one, outcome(small, "whole", rank)), (fault, one)
