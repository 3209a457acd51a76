"""A mirror and a run that went different ways: what counts is known by what it is, not by its number."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from keepstep.errors import CheckpointCorrupt
from keepstep.mirror import CommitName, Mirror, Writer, check, open_mirror, settle
from keepstep.mirror.record import encode
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import Synced, sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.operations.runs import LOSS, flip, make_run


def _sync(run: Run, mirror: Mirror, keep: str = "all") -> Synced:
    policy = Policy.from_spec(keep, LOSS)
    return sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))


def _steps(mirror: Mirror) -> list[int]:
    return [record.checkpoint.step for record in mirror.records()]


def _older_copy(tmp_path: Path) -> tuple[Path, Mirror]:
    """A mirror with steps 10, 20, 30, and a copy of the run from when it had 10."""
    run = make_run(tmp_path / "run", {10: 0.5})
    shutil.copytree(run.path, tmp_path / "copy")
    run = make_run(run.path, {20: 0.4, 30: 0.3})
    _sync(run, open_mirror(tmp_path / "mirror"))
    return tmp_path / "copy", open_mirror(tmp_path / "mirror")


def test_another_course_under_the_same_numbers_is_sent_and_counts(tmp_path: Path) -> None:
    copy, mirror = _older_copy(tmp_path)
    here = make_run(copy, {15: 0.6, 25: 0.7})  # the mirror did not answer, and the training went on from what it had
    plan = plan_mirror(here, mirror, mirror.records(), Policy.from_spec("all", LOSS))
    assert [d.checkpoint.step for d in plan.push] == [25, 15] and [r.checkpoint.step for r in plan.there] == [10]

    _sync(here, mirror)
    assert _steps(open_mirror(mirror.url)) == [25, 15, 10]
    assert all(check(mirror, record) == () for record in mirror.records())
    assert _sync(here, open_mirror(mirror.url)).sent == ()


def test_of_a_damaged_newest_there_what_is_here_counts_and_its_number_is_left_free(tmp_path: Path) -> None:
    copy, mirror = _older_copy(tmp_path)
    make_run(tmp_path / "run", {})
    newest, before, _ = mirror.records()
    for record in (newest, before):
        flip(tmp_path / "mirror" / record.home / "model.safetensors")
    found, passed = plan_pull(mirror, copy, "latest"), list[str]()
    assert not found.settled and found.record.checkpoint.step == 30

    assert bring(mirror, found, older=True, on_damage=passed.append) is None
    assert [text.rpartition(": ")[2] for text in passed] == ["step 30 is passed over", "step 20 is passed over"]
    here = make_run(copy, {40: 0.2})
    assert [(c.generation, c.step) for c in here.checkpoints] == [(1, 10), (4, 40)]
    with pytest.raises(CheckpointCorrupt):
        bring(mirror, plan_pull(mirror, tmp_path / "nothing", "30"))


def test_where_the_mirror_has_nothing_whole_an_own_run_goes_on(tmp_path: Path) -> None:
    copy, mirror = _older_copy(tmp_path)
    _sync(Run.open(tmp_path / "run"), mirror, "latest:1")
    flip(tmp_path / "mirror" / mirror.records()[0].home / "model.safetensors")
    assert bring(mirror, plan_pull(mirror, copy, "latest"), older=True) is None


def _twice(tmp_path: Path) -> tuple[Mirror, Writer, CommitName]:
    """A mirror whose newest generation has two records; returns the name of the one that counts."""
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    mirror = open_mirror(tmp_path / "mirror")
    _sync(run, mirror)
    writer, record = Writer.claim(mirror, run.id), mirror.records()[0]
    name = CommitName(2, writer.epoch, "c" * 12)
    assert mirror.objects.create(name.key, encode(record.checkpoint, record.home))
    return mirror, writer, name


def test_a_damaged_record_gives_way_to_the_other_of_its_generation(tmp_path: Path) -> None:
    mirror, writer, counts = _twice(tmp_path)
    assert mirror.records()[0].name == counts
    (tmp_path / "mirror" / counts.key).write_bytes(b"{")

    there = open_mirror(mirror.url)
    assert _steps(there) == [20, 10] and there.damaged == (counts,)
    settle(writer)  # this one has read the record while it was whole
    assert _steps(open_mirror(mirror.url)) == [20, 10]


def test_what_comes_between_two_looks_is_not_called_damaged(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: 0.5})
    mirror = open_mirror(tmp_path / "mirror")
    _sync(run, mirror)
    looking = open_mirror(mirror.url)
    assert _steps(looking) == [10]
    _sync(make_run(run.path, {20: 0.4}), mirror)
    assert looking.damaged == ()


def test_what_is_evaluated_late_is_not_dropped_before(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {10: None, 20: None, 30: None, 40: None})
    for checkpoint, value in zip(run.checkpoints[:2], (0.5, 0.4), strict=True):
        run.events.append(
            "metrics", step=checkpoint.step, generation=checkpoint.generation, metrics={"eval_loss": value}
        )
    run = Run.open(run.path)
    assert run.evaluated_later(LOSS)
    mirror = open_mirror(tmp_path / "mirror")
    first = _sync(run, mirror, "best:1,latest:1")
    assert [record.checkpoint.step for record in first.sent] == [40, 30, 20] and first.dropped == ()
    assert _sync(run, mirror, "best:1,latest:1").sent == ()


def test_a_file_that_can_not_be_read_keeps_nothing_else_from_going(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run", {10: 0.5, 20: 0.4})
    stock = type(run.store).chunks

    def failing(store: object, path: str, **how: int) -> object:
        if path == "checkpoint-20/model.safetensors":
            raise OSError(5, "Input/output error")
        return stock(store, path, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(type(run.store), "chunks", failing)
    done = _sync(run, open_mirror(tmp_path / "mirror"))
    assert [(c.step, "can't be read: Input/output error" in why) for c, why in done.failed] == [(20, True)]
    assert [record.checkpoint.step for record in done.sent] == [10]
