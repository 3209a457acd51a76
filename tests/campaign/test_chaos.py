"""ckpt-chaos, a crash tester that others wrote: trainings of ours killed where they change a file, and started again.

`FULL=1` has it kill the Trainer at every point, and starts a real interpreter for each life of the loop.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.campaign.chaos.tester import thrown_at, warm

pytestmark = [pytest.mark.campaign, pytest.mark.timeout(3600)]
FULL = bool(os.environ.get("FULL"))
LOOP, TRAINER = "tests.campaign.chaos.loop", "tests.campaign.chaos.trainer"


@pytest.fixture(scope="module")
def loop() -> Iterator[list[str]]:
    """How a loop without torch is started."""
    if FULL:
        yield [sys.executable, "-m", LOOP]
        return
    with warm("loop") as start:
        yield [*start, LOOP]


def test_a_loop_passes_at_every_point(loop: list[str], tmp_path: Path) -> None:
    code, verdicts, table = thrown_at([*loop, "latest:2", "{out}"], "final.json", tmp_path / "work")
    print(f"loop: {verdicts}")
    assert (code, set(verdicts)) == (0, {"PASS"}), table
    assert verdicts["PASS"] > 50


def test_the_same_loop_fails_where_it_writes_in_place(loop: list[str], tmp_path: Path) -> None:
    points = 1000 if FULL else 8
    code, verdicts, table = thrown_at([*loop, "in place", "{out}"], "final.json", tmp_path / "work", points=points)
    print(f"loop, in place: {verdicts}")
    assert code == 1 and verdicts["HARD_FAIL"] >= 4, table


def test_a_trainer_passes_with_keepstep_and_fails_alone(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with warm("trainer") as start:
        for engine, points in (("fast", 6), ("stock", 6), ("alone", 4)):
            command = [*start, TRAINER, engine, "{out}"]
            work = tmp_path / engine
            code, verdicts, table = thrown_at(command, "final.safetensors", work, points=1000 if FULL else points)
            print(f"Trainer, {engine}: {verdicts}")
            if engine == "alone":
                assert code == 1 and verdicts["HARD_FAIL"] >= (20 if FULL else 1), table
            else:
                assert (code, set(verdicts)) == (0, {"PASS"}), table
                assert verdicts["PASS"] > (50 if FULL else 6)
