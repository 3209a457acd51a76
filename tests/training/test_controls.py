"""The comparison can fail: each part of a resume, taken away on purpose, shows in the result."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("trl")

from tests.training.cells import complete
from tests.training.comparing import differences, load
from tests.training.course import Kill
from tests.training.tiny import Recipe, by_length

pytestmark = [pytest.mark.training, pytest.mark.timeout(300)]

GROUPED = Recipe(arguments={**by_length(), "logging_steps": 3})
CONTROLS = {
    "loop state": (Recipe(arguments={"logging_steps": 3}), "training_loss", "approximate"),
    "epoch start": (GROUPED, "model.safetensors", "approximate"),
    "sampler seed": (Recipe(reseed=True), "model.safetensors", "exact"),
    "random state": (Recipe(lora=True), "adapter_model.safetensors", "exact"),
}
"""What is broken: in which training, where it must show, and what an honest receipt can know of it."""


@pytest.mark.parametrize("broken", CONTROLS)
@pytest.mark.quick(1)
def test_what_is_not_restored_is_seen(broken: str, tmp_path: Path) -> None:
    recipe, where, level = CONTROLS[broken]
    reference = complete(tmp_path / "reference", recipe)
    resumed = complete(tmp_path / "resumed", recipe, Kill("save", 2), sabotage=broken)
    assert any(where in difference for difference in differences(reference, resumed))
    assert load(resumed / "outcome")["receipt"]["level"] == level


def test_stock_resuming_of_grouped_rows_takes_another_course(tmp_path: Path) -> None:
    reference = complete(tmp_path / "reference", GROUPED)
    home = tmp_path / "resumed"
    path = str(home / "run" / "checkpoint-8")
    found = differences(reference, complete(home, GROUPED, Kill("save", 2), managed=False, resume=path))
    assert any(difference.startswith("final/model.safetensors") for difference in found)
    assert any(difference.startswith("history") for difference in found)
