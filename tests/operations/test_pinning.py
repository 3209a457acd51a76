"""Tests of pins and tags set by a person."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound
from keepstep.operations import pinning
from keepstep.run import Run
from keepstep.run.pins import TagInvalid
from tests.operations.runs import make_run, training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2})


def _events(run: Run) -> list[tuple[str, int, int, str | None]]:
    wanted = ("pinned", "unpinned", "tagged")
    return [(e["event"], e["step"], e["generation"], e.get("name")) for e in run.events.read() if e["event"] in wanted]


def test_pin_tag_and_unpin_are_in_force_and_logged(run: Run) -> None:
    assert pinning.pin(run, "best").to_json() == {
        "step": 1, "generation": 1, "pinned": True, "tags": [], "changed": True,
    }  # fmt: skip
    assert pinning.tag(run, "2", "final").tags == ("final",)
    assert run.pins.held == {1, 2}

    assert pinning.unpin(run, "final").checkpoint.step == 2
    assert run.pins.held == {1}
    assert _events(run) == [("pinned", 1, 1, None), ("tagged", 2, 2, "final"), ("unpinned", 2, 2, None)]


def test_what_changes_nothing_is_not_logged(run: Run) -> None:
    pinning.pin(run, "1")
    assert not pinning.pin(run, "1").changed
    assert not pinning.unpin(run, "2").changed
    assert len(_events(run)) == 1


def test_a_tag_moves(run: Run) -> None:
    pinning.tag(run, "1", "release")
    pinning.tag(run, "2", "release")
    assert run.pins.tags == {"release": 2}


def test_bad_names_and_unknown_references_change_nothing(run: Run) -> None:
    with pytest.raises(TagInvalid):
        pinning.tag(run, "1", "no good")
    with pytest.raises(CheckpointNotFound):
        pinning.pin(run, "7")
    assert run.pins.held == frozenset()
    assert _events(run) == []


def test_works_beside_a_training(run: Run) -> None:
    with training(run.path):
        assert pinning.pin(run, "1").changed


def test_a_checkpoint_that_goes_in_this_moment_is_said(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    pin = run.pin_board.pin

    def pin_too_late(generation: int) -> None:
        run.repository.remove(run.find(1))
        pin(generation)

    monkeypatch.setattr(run.pin_board, "pin", pin_too_late)
    with pytest.raises(CheckpointNotFound, match="removed in this moment"):
        pinning.pin(run, "1")
