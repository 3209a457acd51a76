"""The past as the events tell it, and another policy over it: compared with what really happened."""

from __future__ import annotations

from pathlib import Path

import pytest

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.operations.seeing import past
from keepstep.operations.seeing.chronicle import Chronicle, moment
from keepstep.operations.seeing.past import replay_past
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, make_run, write

LOSSES = dict(enumerate((0.9, 0.5, 0.7, 0.6, 0.4, 0.8, 0.45, 0.95), start=1))


def replay(run: Run, keep: str) -> past.PastReplay:
    known = {one.generation: one for one in run.checkpoints}
    return replay_past(Chronicle(run).read(), Policy.from_spec(keep, LOSS), known, run_id=run.id)


@pytest.mark.parametrize("keep", ["all", "latest:2", "best:2,latest:1", "best:3:full", "every:3,latest:1", "best:1"])
def test_a_replay_of_the_runs_own_policy_is_what_happened(tmp_path: Path, keep: str) -> None:
    run = make_run(tmp_path / "a", LOSSES, keep=keep)
    found = replay(run, keep)
    present = run.checkpoints
    assert found.kept == tuple(one.step for one in present)
    assert found.frames[-1].bytes == sum(one.size_bytes for one in present)
    assert found.frames[-1].thinned == tuple(one.step for one in present if not one.resumable)
    really = [(event["step"], event["reason"]) for event in run.events.read() if event["event"] == "removed"]
    assert [gone for frame in found.frames for gone in frame.removed] == really
    # And so is every other policy, over the past of a run that kept everything.
    everything = make_run(tmp_path / "b", LOSSES, keep="all")
    again = replay(everything, keep)
    assert (again.kept, again.best) == (found.kept, found.best)
    assert [frame.kept for frame in again.frames] == [frame.kept for frame in found.frames]


def test_late_metrics_and_rewinds_are_followed(tmp_path: Path) -> None:
    def checkpointer() -> Checkpointer:
        return Checkpointer(tmp_path / "a", Policy.from_spec("best:1:full,latest:1", LOSS))

    one = checkpointer()
    one.begin("auto")
    for step, loss in ((1, 0.2), (2, 0.9), (3, 0.1)):
        one.save(Facts(step), write)
        one.record(step, {"eval_loss": loss})
    one.close()
    two = checkpointer()
    two.begin(3)
    two.save(Facts(4, metrics={"eval_loss": 0.5}), write)
    two.close()
    three = checkpointer()
    three.begin(3)
    three.save(Facts(5, metrics={"eval_loss": 0.3}), write)
    three.close()
    run = Run.open(tmp_path / "a")
    found = replay(run, "best:1:full,latest:1")
    assert found.kept == tuple(one.step for one in run.checkpoints) == (3, 5)
    told = Chronicle(run).read()
    assert [(gone.step, gone.kind) for gone in told.gone if gone.kind == "set aside"] == [(4, "set aside")]
    assert told.uses[-1].bytes == sum(one.size_bytes for one in (*run.checkpoints, *run.aside))
    assert told.commits[3].metrics == {"eval_loss": 0.1} and told.commits[3].at_commit == {}


def test_a_restore_is_followed(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {1: 0.9, 2: 0.5, 3: 0.4})
    checkpointer = Checkpointer(run.path, Policy.from_spec("all", LOSS))
    checkpointer.begin(1)
    checkpointer.save(Facts(2, metrics={"eval_loss": 0.3}), write)
    checkpointer.close()
    with run.writing():
        run.bring_back(run.way_back(run.find("gen:3", aside=True)))
    told = Chronicle(run).read()
    assert [(gone.generation, gone.kind) for gone in told.gone] == [(4, "set aside")]
    assert told.uses[-1].bytes == sum(one.size_bytes for one in (*run.checkpoints, *run.aside)) == 4_000
    assert told.rewinds == {2: 1, 3: 3}
    found = replay(run, "all")
    assert found.kept == tuple(one.step for one in run.checkpoints) == (1, 2, 3)
    with run.writing():
        run.remove(run.aside[0], "asked for")
    assert Chronicle(run).read().uses[-1].bytes == 3_000


def test_bytes_over_time_end_with_what_is_there(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", LOSSES, keep="best:2,latest:2")
    told = Chronicle(run).read()
    assert told.uses[-1].bytes == sum(one.size_bytes for one in run.checkpoints)
    assert max(use.bytes for use in told.uses) <= 5_000
    with run.writing():
        run.quarantine(run.verify(run.checkpoints[0]))
    assert Chronicle(run).read().uses[-1].bytes == run.plan().taken_bytes > sum(c.size_bytes for c in run.checkpoints)
    with run.writing():
        run.remove(run.aside[0], "asked for")
    assert Chronicle(run).read().uses[-1].bytes == sum(one.size_bytes for one in run.checkpoints)


def test_a_step_that_is_saved_again_counts_once(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {1: 0.5})
    checkpointer = Checkpointer(run.path, Policy.from_spec("all", LOSS))
    checkpointer.begin("auto")
    checkpointer.save(Facts(1), write)
    checkpointer.close()
    assert Chronicle(run).read().uses[-1].bytes == sum(one.size_bytes for one in run.checkpoints) == 1_000


def test_the_chronicle_reads_on_where_it_was(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {1: 0.5})
    chronicle = Chronicle(run)
    first = chronicle.read()
    count = len(first.last)
    assert chronicle.read() is first and len(first.last) == count
    run.events.append("skipped", step=7)
    assert len(chronicle.read().last) == count + 1
    (run.path / layout.EVENTS).unlink()
    assert list(chronicle.read().last) == []


def test_events_of_another_shape_are_only_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {1: 0.5})
    before = Chronicle(run).read()
    for name in ("committed", "removed", "thinned", "timeline", "metrics", "kept", "verified", "quarantined"):
        run.events.append(name, step="x", generation=[1], metrics=3, reason=None)
    after = Chronicle(run).read()
    assert (after.gone, after.uses, list(after.commits)) == (before.gone, before.uses, list(before.commits))
    assert len(after.last) == len(before.last) + 8


def test_a_policy_that_keeps_everything_of_thousands_is_bounded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "a", LOSSES)
    monkeypatch.setattr(past, "MOST_DECISIONS", 12)
    found = replay(run, "all")
    assert len(found.frames) == 5 and "the first 5 of 8 saves" in found.note
    monkeypatch.undo()
    monkeypatch.setattr(past, "MOST_FRAMES", 3)
    few = replay(run, "latest:1")
    assert len(few.frames) <= 3 and few.frames[-1].kept == (8,)
    assert [step for frame in few.frames for step, _ in frame.removed] == list(range(1, 8))


def test_times_that_can_not_be_read() -> None:
    assert moment(None) is None and moment("yesterday") is None
    found = moment("2026-11-21T10:00:00")
    assert found is not None and found.tzinfo is not None
