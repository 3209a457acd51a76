"""What the start line says of the disk: the most that will lie there."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.errors import SettingsError
from keepstep.integrations.transformers.saving.size import size_of
from keepstep.operations.pinning import pin
from tests.training.tiny import Recipe, build

pytestmark = pytest.mark.training


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        ({"keep": "latest:2"}, lambda one, weights: 3 * one + weights),  # two kept, one in flight, one export
        ({"keep": "best:3,latest:1"}, lambda one, weights: 2 * one + 4 * weights),  # the best are thinned
        ({"keep": "all", "budget": "1MiB"}, lambda one, weights: 2**20 + weights),
    ],
)
@pytest.mark.quick(1)
def test_the_most_on_disk_is_what_is_kept_one_in_flight_and_one_export(
    options: dict[str, str], kept: Callable[[int, int], int], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", logger="keepstep")
    arguments = {"save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "max_steps": 16}
    trainer = build(Recipe(arguments=arguments), tmp_path / "run")
    keepstep.attach(trainer, on_disk_full="continue", **options)
    trainer.train()
    found = re.search(r"at most (\S+ \S+) on disk \(kept, one in flight, one export\)", caplog.text)
    assert found is not None
    size = size_of(trainer)
    number, unit = found[1].split()
    told = float(number) * {"kB": 10**3, "MB": 10**6}[unit]
    assert told == pytest.approx(kept(size.whole, size.weights), rel=0.02)  # two or three digits are told


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"budget": "0.2MB"}, r"budget=200 kB can't hold .*at least 14\d kB each; 29\d kB in all"),
        ({"budget": "0.2MB", "on_disk_full": "continue"}, "can't hold"),
        ({"min_free": "9000TB", "on_disk_full": "pause"}, r"min_free=9\.0 PB of a disk of .* leaves no room for"),
    ],
)
@pytest.mark.quick(1)
def test_limits_that_would_refuse_the_second_save_are_an_error_before_the_first_step(
    options: dict[str, Any], named: str, tmp_path: Path
) -> None:
    trainer = build(Recipe(arguments={"save_steps": 1, "max_steps": 4}), tmp_path / "run")
    keepstep.attach(trainer, **options)
    with pytest.raises(SettingsError, match=named) as caught:
        trainer.train()
    assert trainer.state.global_step == 0 and "(save_only_model=True" in caught.value.hint
    # What is said as the way out is one: nothing of the refusal is left behind.
    trainer = build(Recipe(arguments={"save_steps": 1, "max_steps": 4}), tmp_path / "run")
    checkpointer = keepstep.attach(trainer, budget="0.4MB")
    trainer.train()
    assert checkpointer.refused == [] and checkpointer.run.latest.step == 4


def test_one_save_alone_needs_room_for_one(tmp_path: Path) -> None:
    trainer = build(Recipe(arguments={"save_steps": 4, "max_steps": 4}), tmp_path / "run")
    keepstep.attach(trainer, budget="0.2MB")
    trainer.train()
    assert keepstep.Run.open(tmp_path / "run").latest.step == 4


def test_a_resume_counts_what_may_not_be_given_up(tmp_path: Path) -> None:
    def trained(steps: int, **options: Any) -> Any:
        trainer = build(Recipe(arguments={"save_steps": 1, "max_steps": steps}), tmp_path / "run")
        keepstep.attach(trainer, **options)
        trainer.train(resume_from_checkpoint="auto")
        return keepstep.Run.open(tmp_path / "run")

    run = trained(3)
    for step in (1, 2):
        pin(run, f"step:{step}")
    with pytest.raises(SettingsError, match="that may not be given up, and one more of at least"):
        trained(4, budget="0.5MB")
    assert trained(4, budget="0.7MB").latest.step == 4
