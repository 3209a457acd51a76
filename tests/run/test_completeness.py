"""A listing knows what is no resume point any more, without reading it; retention counts on none of those."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep.model import Kind
from keepstep.retention import Outcome, Policy
from keepstep.run import Run
from keepstep.run.completeness import MOST_LOOKED_AT
from keepstep.stores import LocalStore
from tests.operations.runs import make_run


def strip(run: Run, *steps: int) -> None:
    for step in steps:
        (run.path / f"checkpoint-{step}" / "optimizer.pt").unlink()


def whole(run: Run) -> list[int]:
    return [checkpoint.step for checkpoint in run.checkpoints if checkpoint.resumable]


def test_what_lost_its_optimizer_is_listed_as_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})
    strip(run, 1, 3)
    assert [(c.kind, c.lost, c.name) for c in run.checkpoints] == [
        (Kind.WEIGHTS, ("optimizer.pt",), "checkpoint-1"),
        (Kind.FULL, (), "checkpoint-2"),
        (Kind.WEIGHTS, ("optimizer.pt",), "checkpoint-3"),
    ]


def test_it_is_not_the_recovery_point(tmp_path: Path) -> None:
    """Law 2: what is left under any policy can be resumed from."""
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})
    strip(run, 3, 4)
    plan = run.plan(Policy.from_spec("latest:1"))
    assert [(d.checkpoint.step, d.outcome) for d in plan.decisions] == [
        (1, Outcome.REMOVE),
        (2, Outcome.KEEP),
        (3, Outcome.REMOVE),
        (4, Outcome.KEEP),
    ]
    assert (plan.reasons(2), plan.reasons(4)) == (("newest: the recovery point",), ("latest 1 of 1",))


def test_who_drops_the_optimizers_of_older_ones_keeps_as_many_of_them(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4})
    strip(run, 1, 2, 3)
    assert [c.step for c in run.plan(Policy.from_spec("latest:3")).keep] == [2, 3, 4]


def test_with_the_file_back_it_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2})
    path = run.path / "checkpoint-2" / "optimizer.pt"
    data = path.read_bytes()
    path.unlink()
    run.note_verified(run.verify(run.repository.listing().checkpoints[-1]))
    assert (whole(run), run.events.lost()) == ([1], {2: ("optimizer.pt",)})
    path.write_bytes(data)
    assert whole(run) == [1, 2]


class Counting(LocalStore):
    looks = 0

    def exists(self, path: str) -> bool:
        self.looks += path.endswith("optimizer.pt")
        return super().exists(path)


@pytest.fixture(scope="module")
def long_run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return make_run(tmp_path_factory.mktemp("long") / "run", dict.fromkeys(range(1, 25)), metric=None)


def test_of_many_the_newest_are_looked_at(long_run: Run) -> None:
    run = Run.open(long_run.path)
    run.repository.store = Counting(run.path)
    assert len(whole(run)) == 24
    assert run.repository.store.looks == MOST_LOOKED_AT


def test_and_more_until_one_is_whole_and_those_that_a_check_found(long_run: Run) -> None:
    run = Run.open(long_run.path)
    strip(run, *range(4, 25))
    assert whole(run) == [1, 2, 3]
    strip(run, 1)
    assert whole(run) == [1, 2, 3]
    run.note_verified(run.verify(run.checkpoints[0]))
    assert whole(run) == [2, 3]


def test_one_that_is_on_its_way_out_is_left_alone(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2})
    checkpoint = run.checkpoints[-1]
    (run.path / "checkpoint-2" / "keepstep.json").unlink()
    strip(run, 2)
    assert run.repository.lacking(checkpoint) == ()


def test_the_first_loss_is_said_once_to_who_writes_the_run(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="keepstep")
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})
    strip(run, 1, 2)
    assert whole(run) == [3] and caplog.text == ""
    with run.writing():
        assert whole(run) == whole(run) == [3]
    assert caplog.text.count("checkpoint-2 holds weights only from now on: optimizer.pt is missing") == 1
    assert "checkpoint-1 holds" not in caplog.text
