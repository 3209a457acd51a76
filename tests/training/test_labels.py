"""Where a resume can't be exact, the receipt says so, with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training.cells import complete
from tests.training.comparing import differences, load
from tests.training.course import Kill
from tests.training.tiny import Recipe

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

LABELS = {
    "ignore_data_skip": (Recipe(arguments={"ignore_data_skip": True}), "the epoch's data begins anew"),
}


@pytest.mark.parametrize("name", LABELS)
def test_what_is_not_exact_is_called_approximate(name: str, tmp_path: Path) -> None:
    recipe, reason = LABELS[name]
    reference = complete(tmp_path / "reference", recipe)
    resumed = complete(tmp_path / "resumed", recipe, Kill("save", 2))
    receipt = load(resumed / "outcome")["receipt"]
    assert receipt["level"] == "approximate"
    assert [entry["text"] for entry in receipt["reasons"] if reason in entry["text"]]
    assert differences(reference, resumed), "it is exact after all: take the label away"


def test_a_resume_under_another_learning_rate_is_not_called_exact(tmp_path: Path) -> None:
    resumed = complete(tmp_path, Recipe(), Kill("save", 2), also={"learning_rate": 5e-3})
    receipt = load(resumed / "outcome")["receipt"]
    assert receipt["level"] == "approximate"
    assert "learning_rate was 0.01, now 0.005" in receipt["reasons"][0]["text"]
