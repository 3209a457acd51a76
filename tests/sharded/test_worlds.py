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
OLD: dict[str, Any] = {"version": 1, "sync_module_states": False}
TENSOR: dict[str, Any] = {"parallelism_config": ParallelismConfig(dp_shard_size=2, tp_size=2)}
SIX = {"save_steps": 4, "max_steps": 6}
"""Saved once on the way, and at the end."""


def leg(name: str, arguments: dict[str, Any] | None = None, **options: Any) -> Leg:
    """Six steps, of which four processes have enough rows."""
    return Leg(name, arguments={**SIX, **(arguments or {})}, rows=48, **options)


RIDES = (
    (2, (leg("two"), leg("two, at 4", copy="two", upto=4), leg("old FSDP", fsdp=OLD))),
    (1, (leg("one of two", copy="two", upto=4),)),
    (1, (leg("plain of shards", divided=False, copy="two", upto=4), leg("plain", divided=False))),
    (4, (leg("hybrid", HYBRID), leg("hybrid resumed", HYBRID, copy="hybrid", upto=4))),
    (2, (leg("two of plain", copy="plain", upto=4),)),
)
MORE = (
    (2, (leg("two gathered", state=FULL), leg("two gathered, at 4", state=FULL, copy="two gathered", upto=4))),
    (
        1,
        (
            leg("one of two gathered", state=FULL, copy="two gathered", upto=4), leg("one"),
            leg("one, at 4", copy="one", upto=4),
        ),
    ),
    (1, (leg("plain of gathered", divided=False, copy="two gathered", upto=4),)),
    (
        4,
        (
            leg("four of two", copy="two", upto=4), leg("hybrid of two", HYBRID, copy="two", upto=4),
            leg("tensor parallel", TENSOR),
        ),
    ),
    (2, (leg("two of one", copy="one", upto=4),)),
)  # fmt: skip
"""Of the same laws in other variants; each ride is so many processes and what they do one after the other."""
LATER = {one.name for _, legs in MORE for one in legs}


def ride_all(path: Path, rides: tuple[tuple[int, tuple[Leg, ...]], ...]) -> Path:
    for world, legs in rides:
        codes = ride(path, *legs, world=world)
        assert codes == [0] * world, logs_of(path)
    return path


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ride_all(tmp_path_factory.mktemp("worlds"), RIDES)


@pytest.fixture(scope="module")
def more(home: Path) -> Path:
    return ride_all(home, MORE)


@pytest.fixture
def place(request: pytest.FixtureRequest, home: Path) -> Path:
    """Where the legs are that the test looks at."""
    return request.getfixturevalue("more") if request.node.get_closest_marker("long") else home


def cases(*found: tuple[str, ...]) -> list[Any]:
    """Cases that begin with a leg's name, those of `MORE` marked."""
    return [pytest.param(*one, marks=[pytest.mark.long] * (one[0] in LATER)) for one in found]


@pytest.mark.parametrize(
    ("leg", "reference", "words"),
    cases(
        ("one of two", "two, at 4", "2 processes, now 1 process"),
        ("one of two gathered", "two gathered, at 4", "2 processes, now 1 process"),
        ("four of two", "two, at 4", "2 processes, now 4 processes"),
        ("hybrid of two", "two, at 4", "2 processes, now 4 processes"),
        ("two of one", "one, at 4", "1 process, now 2 processes"),
    ),
)
@pytest.mark.long
def test_the_state_is_the_same_on_another_number_of_processes(
    place: Path, leg: str, reference: str, words: str
) -> None:
    one, same = outcome(place, leg), outcome(place, reference)
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


def test_fsdp1_is_refused_with_the_way_out(home: Path) -> None:
    old = refused(home, "old FSDP", "SettingsError", 2).error
    assert "FSDP1" in old and 'fsdp_config={"version": 2}' in old


@pytest.mark.long
def test_tensor_parallelism_is_refused(more: Path) -> None:
    assert "tensor parallelism (tp_size=2)" in refused(more, "tensor parallel", "SettingsError", 4).error


@pytest.mark.parametrize("leg", cases(("plain of shards",), ("plain of gathered",)))
def test_a_training_without_fsdp_is_told_how_to_resume_from_its_files(place: Path, leg: str) -> None:
    error = refused(place, leg, "ResumeRefused", 1).error
    assert "was saved by FSDP" in error and "--nproc_per_node 1" in error and "keepstep export" in error


def test_fsdp_is_told_that_it_can_not_resume_from_others_files(home: Path) -> None:
    error = refused(home, "two of plain", "ResumeRefused", 2).error
    assert "without FSDP" in error and "Resume without FSDP" in error
