"""What a checkpoint is called, and what its directory's name tells."""

from __future__ import annotations

import pytest

from keepstep.model import Kind, parse_name


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("checkpoint-0", (Kind.FULL, 0)),
        ("checkpoint-10", (Kind.FULL, 10)),
        ("weights-500", (Kind.WEIGHTS, 500)),
        (f"checkpoint-{10**200}", (Kind.FULL, 10**200)),
    ],
)
def test_a_name_tells_kind_and_step(name: str, meant: tuple[Kind, int]) -> None:
    assert parse_name(name) == meant


@pytest.mark.parametrize(
    "name",
    ["", "checkpoint-", "checkpoint-007", "checkpoint-00", "checkpoint--1", "checkpoint-+1", "checkpoint-1_0",
     "checkpoint-1.0", "checkpoint-1 ", " checkpoint-1", "checkpoint-1\n", "checkpoint-\u0661", "checkpoint-\u00b2",
     "Checkpoint-1", "checkpoint-best", "checkpoint-6.bak", "tmp-checkpoint-6", "weights-checkpoint-6", "weights"],
)  # fmt: skip
def test_a_name_that_is_not_exactly_one_of_ours_tells_nothing(name: str) -> None:
    assert parse_name(name) is None
