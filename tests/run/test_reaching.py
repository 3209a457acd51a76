"""References that reach what lies aside: gen:N, tags, paths, previous:ID and previous:ID/REF."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.model import State
from keepstep.operations import pinning
from keepstep.operations.checking import candidates, check, safe_to_resume
from keepstep.operations.seeing.showing import show
from keepstep.retention import Policy, without_aside
from keepstep.run import Run, way_back
from tests.small_run import FILES, make_checkpointer, make_run, save


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Steps 2, 4 and a second 6 (generation 5); 6 and 8 of the first timeline are set aside (3, 4)."""
    path = tmp_path / "run"
    make_run(path, 2, 4, 6, 8)
    checkpointer = make_checkpointer(path)
    checkpointer.begin(4)
    save(checkpointer, 6, 0.01)
    checkpointer.close()
    return Run.open(path)


@pytest.fixture
def before(run: Run) -> str:
    """The same as a previous run, its place taken by one with step 3; its id."""
    checkpointer = make_checkpointer(run.path, fresh="new-run")
    checkpointer.begin(None)
    save(checkpointer, 3, 1.0)
    checkpointer.close()
    return run.id


def test_generations_name_what_is_there_and_what_lies_aside(run: Run) -> None:
    assert run.find("gen:5").step == 6
    found = run.find("gen:4", aside=True)
    assert (found.step, found.state, way_back(found)) == (8, State.SET_ASIDE, "gen:4")
    assert found.path is not None
    for reference in (found.path, str(found.path), ".keepstep/timelines/1/checkpoint-8"):
        assert run.find(reference, aside=True).generation == 4


@pytest.mark.parametrize("reference", ["gen:4", ".keepstep/timelines/1/checkpoint-8", "old"])
def test_who_does_not_reach_aside_hears_the_way_back(run: Run, reference: str) -> None:
    run.pin_board.tag(4, "old")
    with pytest.raises(CheckpointNotFound, match="is set aside") as caught:
        run.find(reference)
    assert caught.value.hint == f"Bring it back: keepstep restore {run.path} gen:4"
    assert run.find(reference, aside=True).generation == 4


def test_an_error_names_what_lies_aside(run: Run) -> None:
    with pytest.raises(CheckpointNotFound) as caught:
        run.find(8)
    assert "Did you mean 'gen:4'?" in caught.value.hint
    assert "Aside: gen:3 (step 6, set aside), gen:4 (step 8, set aside)." in caught.value.hint
    with pytest.raises(CheckpointNotFound, match="nothing of generation 9"):
        run.find("gen:9", aside=True)


def test_what_there_are_two_of_is_named_by_its_path(run: Run) -> None:
    found = run.find("gen:4", aside=True)
    assert found.path is not None
    (run.path / layout.TIMELINES / "7").mkdir()
    shutil.copytree(found.path, run.path / layout.TIMELINES / "7" / "checkpoint-8")
    with pytest.raises(CheckpointNotFound, match="2 of generation 4") as caught:
        run.find("gen:4", aside=True)
    assert str(found.path) in caught.value.hint


@pytest.mark.parametrize(
    ("inside", "generation"), [("", 5), ("/latest", 5), ("/best", 5), ("/4", 2), ("/gen:4", 4), ("/checkpoint-2", 1)]
)
def test_a_previous_run_and_its_checkpoints(run: Run, before: str, inside: str, generation: int) -> None:
    now = Run.open(run.path)
    for name in (before, before[:5]):
        found = now.find(f"previous:{name}{inside}", aside=True)
        assert (found.run_id, found.generation, found.state) == (before, generation, State.PREVIOUS)
        assert found.path is not None and found.path.is_relative_to(run.path / layout.PREVIOUS / before)


def test_a_previous_run_that_is_not_there(run: Run, before: str) -> None:
    now = Run.open(run.path)
    with pytest.raises(CheckpointNotFound, match="no previous run 'nope'") as caught:
        now.find("previous:nope", aside=True)
    assert f"previous:{before}" in caught.value.hint
    with pytest.raises(CheckpointNotFound, match="is of a previous run"):
        now.find(f"previous:{before}")
    with pytest.raises(CheckpointNotFound, match="no checkpoint of step 99"):
        now.find(f"previous:{before}/99", aside=True)


def test_a_run_without_any_has_no_previous_one(run: Run) -> None:
    with pytest.raises(CheckpointNotFound, match="has no previous run"):
        run.find("previous:abc", aside=True)


# -- commands that reach there -------------------------------------------------------------------------------


def test_what_is_pinned_aside_stays_however_short_room_is(run: Run) -> None:
    done = pinning.pin(run, "gen:4")
    assert (done.checkpoint.step, done.changed) == (8, True)
    plan = without_aside(run.plan(Policy.from_spec("latest:1")), {State.SET_ASIDE}, "asked for")
    assert [c.generation for c in plan.remove_aside] == [3]
    assert show(run, "gen:4").row.pinned


def test_a_previous_run_keeps_pins_and_checks_of_its_own(run: Run, before: str) -> None:
    now = Run.open(run.path)
    pinning.tag(now, f"previous:{before}/2", "first")
    old = Run.open(run.path / layout.PREVIOUS / before)
    assert (old.pins.tags, now.pins.tags) == ({"first": 1}, {})
    assert (before, 1) in now.previous_runs.held()
    found = now.find(f"previous:{before}/2", aside=True)
    assert found.path is not None
    (found.path / FILES[0]).write_bytes(b"damaged")
    (checked,) = check(now, candidates(now, f"previous:{before}/2"))
    assert not checked.ok
    assert (old.events.damaged(), now.events.damaged()) == ({1}, set()), "generation 1 is here another one"
    assert now.find(f"previous:{before}/first", aside=True).spoiled


def test_a_quarantine_takes_nothing_of_a_previous_run(run: Run, before: str) -> None:
    now = Run.open(run.path)
    found = now.find(f"previous:{before}/2", aside=True)
    assert found.path is not None
    (found.path / FILES[0]).write_bytes(b"damaged")
    with now.writing():
        (checked,) = check(now, candidates(now, f"previous:{before}/2"), quarantine=True)
    assert (checked.ok, checked.moved_to, found.path.is_dir()) == (False, None, True)


def test_show_says_what_would_remove_it(run: Run, before: str) -> None:
    now = Run.open(run.path)
    assert "--previous" in show(now, f"previous:{before}/4").removed_by[0]
    old = Run.open(run.path / layout.PREVIOUS / before)
    assert "--aside" in show(old, "gen:3").removed_by[0]


def test_a_resume_point_is_verified_wherever_it_lies(run: Run) -> None:
    assert safe_to_resume(run, "gen:4").checkpoint.step == 8
    found = run.find("gen:4", aside=True)
    assert found.path is not None
    (found.path / FILES[0]).write_bytes(b"damaged")
    with pytest.raises(ResumeRefused, match="damaged"):
        safe_to_resume(run, "gen:4")
