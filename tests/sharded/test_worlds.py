"""Another number of processes, another mesh, another kind of training: what can be resumed, and what is refused.

accelerate has no FSDP for CPU: `cpu_fsdp` lets it have one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

from accelerate import ParallelismConfig

from tests.sharded.legs import FULL, Leg, Outcome, outcome, ride
from tests.training.ranked import logs_of
from tests.training.tiny import NEWEST

pytestmark = [
    pytest.mark.training,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not NEWEST, reason="FSDP2 came to the Trainer with transformers 5"),
]

HYBRID: dict[str, Any] = {"parallelism_config": ParallelismConfig(dp_replicate_size=2, dp_shard_size=2)}
TENSOR: dict[str, Any] = {"parallelism_config": ParallelismConfig(dp_shard_size=2, tp_size=2)}
ROWS = 48
TWO = (
    Leg("two", rows=ROWS),
    Leg("two gathered", state=FULL, rows=ROWS),
    Leg("two, at 4", rows=ROWS, copy="two", upto=4),
    Leg("two gathered, at 4", rows=ROWS, state=FULL, copy="two gathered", upto=4),
    Leg("old FSDP", fsdp={"version": 1, "sync_module_states": False}),
)
ONE = (
    Leg("one of two", rows=ROWS, copy="two", upto=4),
    Leg("one of two gathered", rows=ROWS, state=FULL, copy="two gathered", upto=4),
    Leg("one", rows=ROWS),
    Leg("one, at 4", rows=ROWS, copy="one", upto=4),
)
UNDIVIDED = (
    Leg("plain of shards", divided=False, rows=ROWS, copy="two", upto=4),
    Leg("plain of gathered", divided=False, rows=ROWS, copy="two gathered", upto=4),
    Leg("plain", divided=False, rows=ROWS),
)
FOUR = (
    Leg("four of two", rows=ROWS, copy="two", upto=4),
    Leg("hybrid", arguments=HYBRID, rows=ROWS),
    Leg("hybrid resumed", arguments=HYBRID, rows=ROWS, copy="hybrid", upto=4),
    Leg("hybrid of two", arguments=HYBRID, rows=ROWS, copy="two", upto=4),
    Leg("tensor parallel", arguments=TENSOR),
)
AGAIN = (
    Leg("two of one", rows=ROWS, copy="one", upto=4),
    Leg("two of plain", rows=ROWS, copy="plain", upto=4),
)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("worlds")
    for legs, world in ((TWO, 2), (ONE, 1), (UNDIVIDED, 1), (FOUR, 4), (AGAIN, 2)):
        codes = ride(path, *legs, world=world)
        assert codes == [0] * world, logs_of(path)
    return path


@pytest.mark.parametrize(
    ("leg", "reference", "words"),
    [
        ("one of two", "two, at 4", "2 processes, now 1 process"),
        ("one of two gathered", "two gathered, at 4", "2 processes, now 1 process"),
        ("four of two", "two, at 4", "2 processes, now 4 processes"),
        ("hybrid of two", "two, at 4", "2 processes, now 4 processes"),
        ("two of one", "one, at 4", "1 process, now 2 processes"),
    ],
)
def test_the_state_is_the_same_on_another_number_of_processes(home: Path, leg: str, reference: str, words: str) -> None:
    one, same = outcome(home, leg), outcome(home, reference)
    assert not one.error and one.loaded == same.loaded is not None
    assert one.receipt is not None and one.receipt["level"] == "approximate"
    assert any(words in reason["text"] for reason in one.receipt["reasons"]), one.receipt
    assert any("not compared: it is divided in another way" in reason["text"] for reason in one.receipt["reasons"])
    assert not one.receipt["compared"] and one.receipt["evidence"] != "compared"


def test_replicas_of_shards_resume_exactly(home: Path) -> None:
    whole, resumed = outcome(home, "hybrid"), outcome(home, "hybrid resumed")
    assert whole.weights and (whole.weights, whole.optimizer) == (resumed.weights, resumed.optimizer)
    assert resumed.receipt is not None and resumed.receipt["level"] == "exact", resumed.receipt
    assert "on 4 ranks" in resumed.receipt["compared"]
    assert len(list((home / "hybrid" / "checkpoint-4" / "optimizer_0").glob("*.distcp"))) == 4


def refused(home: Path, leg: str, kind: str, world: int) -> Outcome:
    found = [outcome(home, leg, rank) for rank in range(world)]
    assert {(one.kind, one.error) for one in found} == {(kind, found[0].error)}
    assert not found[0].step
    return found[0]


def test_other_ways_to_divide_a_model_are_refused_with_the_way_out(home: Path) -> None:
    assert "tensor parallelism (tp_size=2)" in refused(home, "tensor parallel", "SettingsError", 4).error
    old = refused(home, "old FSDP", "SettingsError", 2).error
    assert "FSDP1" in old and 'fsdp_config={"version": 2}' in old


@pytest.mark.parametrize("leg", ["plain of shards", "plain of gathered"])
def test_a_training_without_fsdp_is_told_how_to_resume_from_its_files(home: Path, leg: str) -> None:
    error = refused(home, leg, "ResumeRefused", 1).error
    assert "was saved by FSDP" in error and "--nproc_per_node 1" in error and "keepstep export" in error


def test_fsdp_is_told_that_it_can_not_resume_from_others_files(home: Path) -> None:
    error = refused(home, "two of plain", "ResumeRefused", 2).error
    assert "without FSDP" in error and "Resume without FSDP" in error
