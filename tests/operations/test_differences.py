"""What is told of two checkpoints."""

from __future__ import annotations

import math

from msgspec.structs import replace

from keepstep.operations.seeing.differences import differences
from tests.checkpoints import make_checkpoint


def test_everything_that_differs_is_named() -> None:
    one = replace(
        make_checkpoint(1, metrics={"a": 1.0, "b": math.nan, "gone": 2.0}, optimizer=10),
        written_by={"torch": "2.8", "world_size": 1},
        fingerprint={"arguments": {"lr": 1e-5, "seed": 1}},
    )
    two = replace(
        make_checkpoint(2, metrics={"a": math.inf, "b": math.nan}, size=2_000),
        written_by={"torch": "2.9", "world_size": 1},
        fingerprint={"arguments": {"lr": 2e-5, "seed": 1}},
    )
    found = {change.what: (change.before, change.after) for change in differences(one, two)}
    assert found == {
        "metric: a": (1.0, math.inf),
        "metric: gone": (2.0, None),
        "size": (1_010, 2_000),
        "file: model.safetensors": (1_000, 2_000),
        "file: optimizer.pt": (10, None),
        "written by: torch": ("2.8", "2.9"),
        "arguments: lr": (1e-5, 2e-5),
    }
    assert next(c for c in differences(one, two) if c.what == "metric: a").to_json()["after"] == "Infinity"


def test_what_is_equal_differs_in_nothing() -> None:
    one = make_checkpoint(1, metrics={"a": math.nan})
    assert differences(one, one) == ()
    thin = one.thinned()
    assert [change.what for change in differences(one, thin)] == ["kind"]
