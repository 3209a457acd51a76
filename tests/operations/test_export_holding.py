"""An export's plan is of checkpoints that are there, and stay there."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound
from keepstep.operations.export.choosing import verify
from keepstep.operations.export.holding import ATTEMPTS, gone, held_plan
from keepstep.operations.export.request import Request
from keepstep.retention import Policy
from keepstep.run import Run
from keepstep.run.readers import Readers
from tests.operations.test_export import MODEL, _save


@pytest.fixture
def run(tmp_path: Path) -> Run:
    for step in (10, 20, 30):
        _save(tmp_path / "run", MODEL, step)
    return Run.open(tmp_path / "run")


def test_members_of_an_average_stay_until_it_is_done(run: Run, tmp_path: Path) -> None:
    request = Request(directory=tmp_path / "out", average="10,20")
    with held_plan(run, request), run.writing():
        assert run.plan(Policy.from_spec("latest:1")).remove == ()
    assert len(run.plan(Policy.from_spec("latest:1")).remove) == 2


def _before_each_hold(monkeypatch: pytest.MonkeyPatch, what: list[object]) -> None:
    """Let something happen between each plan and its hold, as a training may."""
    hold = Readers.reading

    @contextmanager
    def late(self: Readers, generations: Iterable[int], why: str) -> Generator[None]:
        if what:
            what.pop(0)()  # type: ignore[operator]
        with hold(self, generations, why):
            yield

    monkeypatch.setattr(Readers, "reading", late)


def test_what_is_thinned_before_it_is_held_is_found_where_it_lies_now(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def thin() -> None:
        with run.writing():
            run.thin(run.find(10), "asked for")

    _before_each_hold(monkeypatch, [thin])
    with held_plan(run, Request(directory=tmp_path / "out", reference=10)) as plan:
        assert plan.directory == run.path / "weights-10"


def test_a_step_that_is_saved_anew_is_gone_and_not_damaged(run: Run, tmp_path: Path) -> None:
    with held_plan(run, Request(directory=tmp_path / "out", reference=30)) as plan:
        _save(tmp_path / "run", MODEL | {"config.json": b'{"a": 1}'}, 30)
        assert gone(plan)
        with pytest.raises(CheckpointNotFound, match="saved anew"):
            verify(run, plan.members, plan.needed)
    assert run.events.damaged() == set()


def test_what_is_removed_before_it_is_held_is_not_found(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def remove() -> None:
        with run.writing():
            run.remove(run.find(10), "asked for")

    _before_each_hold(monkeypatch, [remove])
    with (
        pytest.raises(CheckpointNotFound, match="has no checkpoint of step 10"),
        held_plan(run, Request(directory=tmp_path / "out", reference=10)),
    ):
        pass


def test_a_run_that_removes_faster_than_it_is_read_is_given_up(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def replace() -> None:
        with run.writing():
            run.remove(run.find("latest"), "asked for")
        _save(run.path, MODEL, 30 + len(events))

    events: list[object] = []
    events += [replace] * ATTEMPTS
    _before_each_hold(monkeypatch, events)
    with (
        pytest.raises(CheckpointNotFound, match="went away 5 times"),
        held_plan(run, Request(directory=tmp_path / "out", reference="latest")),
    ):
        pass
