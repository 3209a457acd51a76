"""What the start line says of the disk: the most that will lie there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.units import format_size
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("options", "weights_on_disk"),
    [
        ({"keep": "latest:2"}, 3 * 3 + 1),  # AdamW: two moments a weight; two kept, one in flight, one export
        ({"keep": "best:3,latest:1"}, 2 * 3 + 3 * 1 + 1),  # the best are thinned
        ({"keep": "all", "budget": "1MiB"}, None),
    ],
)
def test_the_most_on_disk_is_what_is_kept_one_in_flight_and_one_export(
    options: dict[str, str], weights_on_disk: int | None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="keepstep")
    arguments = {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 16}
    trainer = build(Recipe(arguments=arguments), tmp_path / "run")
    weights = sum(p.numel() * p.element_size() for p in trainer.model.parameters())
    keepstep.attach(trainer, on_disk_full="continue", **options)
    trainer.train()
    found = re.search(r"at most (\S+ \S+) on disk \(kept, one in flight, one export\)", caplog.text)
    assert found is not None
    most = 2**20 + weights if weights_on_disk is None else weights_on_disk * weights
    assert found[1] == format_size(most)
