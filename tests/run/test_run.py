"""A run: references, resume points, rewinds, pins, and directories that were moved, copied or touched."""

from __future__ import annotations

import os
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

from keepstep import layout
from keepstep.errors import CheckpointNotFound, KeepstepError, ReferenceInvalid, ResumeRefused, RunLocked, RunNotFound
from keepstep.model import Kind
from keepstep.operations.removing.carrying_out import apply_plan
from keepstep.retention import Policy
from keepstep.run import Run, external_path, open_external
from keepstep.run.pins import TagInvalid
from keepstep.run.runfile import RunFileDamaged
from keepstep.testing.faults import Fault, FaultyStore, Injector
from tests.small_run import FILES, LOSS, assert_sound, litter, make_checkpointer, make_run, manifest_of, save, steps


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def damage(run: Run, step: int) -> None:
    checkpoint = run.find(step)
    assert checkpoint.path is not None
    (checkpoint.path / FILES[0]).write_bytes(b"damaged")


# -- references --------------------------------------------------------------------------------------------


def test_references_name_checkpoints(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(path, 2, 4, 6)
    run.record_metrics(run.find(2).generation, {"eval_loss": 0.0})
    run.pin_board.tag(run.find(4).generation, "good")
    monkeypatch.chdir(path.parent)
    for reference, step in (
        ("best", 2), ("latest", 6), (4, 4), ("4", 4), (" 4 ", 4), ("step:4", 4), ("good", 4), ("checkpoint-4", 4),
        (path.joinpath("checkpoint-4", "keepstep.json"), 4), (f"file://{path}/checkpoint-4", 4), (path, 6), ("run/", 6),
        (path / "checkpoint-4", 4), ("run/checkpoint-4", 4), ("./run/checkpoint-4/", 4), (Path("checkpoint-4"), 4),
    ):  # fmt: skip
        assert run.find(reference).step == step


@pytest.mark.parametrize(
    ("reference", "hint"),
    [("lates", "'latest'"), ("bset", "'best'"), ("godo", "'good'"), (40, "'4'"), ("checkpoint-44", "'checkpoint-4'"),
     ("/nowhere/checkpoint-4", "'checkpoint-4'"), ("step:", "steps 2, 4"), ("", "steps 2, 4"), ("-4", "steps 2, 4")],
)  # fmt: skip
def test_a_near_miss_is_answered_with_what_there_is(path: Path, reference: str | int, hint: str) -> None:
    run = make_run(path, 2, 4)
    run.pin_board.tag(1, "good")
    with pytest.raises(CheckpointNotFound if reference else ReferenceInvalid) as caught:
        run.find(reference)
    assert hint in caught.value.hint
    assert "steps 2, 4; tags: good" in caught.value.hint


@pytest.mark.parametrize("reference", [True, "", 2.5, "s3://bucket/checkpoint-2"])
def test_what_is_no_reference_is_named(path: Path, reference: Any) -> None:
    with pytest.raises(ReferenceInvalid, match=r"no checkpoint|not lie on this machine"):
        make_run(path, 2).find(reference)


def test_best_of_nothing_says_why(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 2)
    checkpointer.close()
    with pytest.raises(CheckpointNotFound, match="none has a value of eval_loss"):
        Run.open(path).find("best")


def test_a_tag_whose_checkpoint_is_gone_says_so(path: Path) -> None:
    run = make_run(path, 2, 4)
    run.pin_board.tag(7, "good")
    with pytest.raises(CheckpointNotFound, match="names generation 7, which is not there"):
        run.find("good")


NO_TAGS = ["best", "Latest", "AUTO", "4", "-x", "a b", "a/b", "", "x" * 65, "checkpoint-4", "weights-2"]


@pytest.mark.parametrize("name", NO_TAGS)
def test_what_means_something_else_can_not_be_a_tag(path: Path, name: str) -> None:
    with pytest.raises(TagInvalid):
        make_run(path, 2).pin_board.tag(1, name)


# -- resume points -----------------------------------------------------------------------------------------


def test_the_resume_point_falls_back_over_every_damaged_one(path: Path) -> None:
    run = make_run(path, 2, 4, 6)
    damage(run, 6)
    damage(run, 4)
    point = run.resume_point()
    assert point.checkpoint.step == 2
    assert [verification.checkpoint.step for verification in point.passed_over] == [6, 4]
    assert [verification.problems[0].path for verification in point.passed_over] == [FILES[0]] * 2
    damage(run, 2)
    with pytest.raises(CheckpointNotFound, match="no valid checkpoint left"):
        run.resume_point()


def test_every_byte_of_the_newest_manifest_may_flip_and_the_run_resumes_from_the_one_before(path: Path) -> None:
    run = make_run(path, 2, 4)
    manifest = manifest_of(run.find(4))
    data = manifest.read_bytes()
    for offset in range(0, len(data), 3):
        for bit in (1, 8):
            manifest.write_bytes(data[:offset] + bytes([data[offset] ^ bit]) + data[offset + 1 :])
            assert run.resume_point().checkpoint.step == 2
    manifest.write_bytes(data)
    assert run.resume_point().checkpoint.step == 4


def test_a_named_one_that_is_damaged_or_weights_only_is_refused(path: Path) -> None:
    run = make_run(path, 2, 4)
    damage(run, 4)
    with pytest.raises(ResumeRefused, match=f"damaged: {FILES[0]}"):
        run.resume_point(4)
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    save(checkpointer, 6, kind=Kind.WEIGHTS)
    checkpointer.close()
    with pytest.raises(ResumeRefused, match="weights only"):
        run.resume_point(6)
    assert run.resume_point().checkpoint.step == 2


def test_generation_decides_what_is_newest_not_step_nor_time_nor_order_of_listing(path: Path) -> None:
    checkpointer = make_checkpointer(path)
    checkpointer.begin("auto")
    for step in (100, 9, 30):
        save(checkpointer, step)
    checkpointer.close()
    run = Run.open(path)
    for number, checkpoint in enumerate(run.checkpoints):
        assert checkpoint.path is not None
        os.utime(checkpoint.path, (2e9 - number * 3e7, 2e9 - number * 3e7))
    assert run.resume_point().checkpoint.step == 30
    assert run.latest == run.find(30)


# -- moved, copied, renamed, foreign -----------------------------------------------------------------------


def test_a_run_can_be_moved_and_copied(path: Path, tmp_path: Path) -> None:
    make_run(path, 2, 4, keep="best:1,latest:1").pin_board.tag(1, "good")
    shutil.copytree(path, tmp_path / "copy")
    path.rename(tmp_path / "moved")
    for name in ("copy", "moved"):
        run = Run.open(tmp_path / name)
        assert run.best == run.find(4) == run.resume_point().checkpoint
        assert run.best is not None
        assert run.best.path == tmp_path / name / "checkpoint-4"
        assert_sound(run)
        checkpointer = make_checkpointer(tmp_path / name)
        checkpointer.begin("auto")
        save(checkpointer, 6)
        checkpointer.close()
        assert steps(run)[-1] == 6


def test_a_renamed_checkpoint_does_not_pass_for_another_step(path: Path) -> None:
    run = make_run(path, 2, 4)
    (path / "checkpoint-4").rename(path / "checkpoint-400")
    assert steps(run) == [2]
    assert [foreign.path.name for foreign in run.foreign] == ["checkpoint-400"]
    assert run.resume_point().checkpoint.step == 2


def test_another_runs_checkpoint_is_neither_resumed_from_nor_counted_nor_removed(path: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "other", 100)
    run = make_run(path, 2, 4, 6)
    shutil.copytree(tmp_path / "other" / "checkpoint-100", path / "checkpoint-100")
    assert run.resume_point().checkpoint.step == 6
    with run.writing():
        apply_plan(run, run.plan(Policy.from_spec("latest:1")))
    assert steps(run) == [6]
    assert (path / "checkpoint-100" / FILES[0]).exists()


def test_foreign_directories_stay_untouched(path: Path) -> None:
    names = ("checkpoint-best", "checkpoint-final", "checkpoint-6.bak", "checkpoint-007", "checkpoint-10", "runs")
    run = make_run(path, 2)
    for name in names:
        (path / name).mkdir()
        (path / name / "mine").write_bytes(b"mine")
    checkpointer = make_checkpointer(path, "latest:1")
    checkpointer.begin("auto")
    for step in (4, 6, 8):
        save(checkpointer, step)
    checkpointer.close()
    checkpointer.begin(4) if 4 in steps(run) else checkpointer.begin("auto")
    checkpointer.close()
    assert steps(run) == [8]
    assert all((path / name / "mine").read_bytes() == b"mine" for name in names)


def test_a_checkpoint_behind_a_link_is_never_removed(path: Path, tmp_path: Path) -> None:
    run = make_run(path, 2, 4, 6)
    (path / "checkpoint-2").rename(tmp_path / "elsewhere")
    (path / "checkpoint-2").symlink_to(tmp_path / "elsewhere")
    with run.writing():
        apply_plan(run, run.plan(Policy.from_spec("latest:1")))
    assert steps(run) == [6]
    assert len(list((tmp_path / "elsewhere").iterdir())) == 3


# -- writing needs the lock --------------------------------------------------------------------------------


def test_what_changes_a_run_needs_its_lock(path: Path) -> None:
    run = make_run(path, 2, 4)
    for change in (
        lambda: run.remove(run.find(2), "because"),
        lambda: run.rewind(run.find(2)),
        lambda: run.quarantine(run.verify(run.find(2))),
        lambda: run.set_policy(Policy.from_spec("latest:1")),
    ):
        with pytest.raises(KeepstepError, match="lock"):
            change()
    assert steps(run) == [2, 4]


def test_creating_where_another_was_faster_gives_the_others_run(path: Path) -> None:
    first = Run.create(path, Policy.from_spec("all"))
    assert Run.create(path, Policy.from_spec("latest:1")).file == first.file


def test_creating_while_another_trains_is_refused_and_its_run_file_stays(path: Path) -> None:
    first = Run.create(path, Policy.from_spec("all"))
    with first.writing(), pytest.raises(RunLocked):
        Run.create(path, Policy.from_spec("all"))
    assert Run.open(path).id == first.id


def test_a_lock_is_given_back_after_an_error_and_a_full_disk_does_not_keep_it(path: Path) -> None:
    run = make_run(path, 2)
    with pytest.raises(ZeroDivisionError), run.writing():
        raise ZeroDivisionError
    for store in (FaultyStore(path, Injector(Fault(1, 28, sticky=True))), run.store):
        run.lock._store = store
        run.lock.acquire()
        assert run.lock.held
        run.lock.release()
        assert not run.lock.held


# -- rewind ------------------------------------------------------------------------------------------------


def test_a_rewind_sets_newer_siblings_aside_and_begins_a_timeline(path: Path) -> None:
    run = make_run(path, 2, 4, 6, 8)
    with run.writing():
        assert [c.step for c in run.rewind(run.find(4))] == [6, 8]
        assert run.rewind(run.find(4)) == ()
    assert steps(run) == [2, 4]
    assert [(c.step, c.timeline) for c in run.aside] == [(6, 1), (8, 1)]
    assert run.repository.current_timeline() == 2
    assert run.next_generation() == 5
    assert litter(path) == []
    assert_sound(run)


@pytest.mark.parametrize("at", range(1, 30))
def test_a_rewind_that_failed_anywhere_is_completed_at_the_next_start(path: Path, at: int) -> None:
    make_run(path, 2, 4, 6, 8)
    with Injector(Fault(at)).injected():
        try:
            with (run := Run.open(path)).writing():
                run.rewind(run.find(4))
        except OSError:
            pass
    intended = (path / layout.REWIND).exists()
    run = Run.open(path)
    with run.writing():
        pass
    assert steps(run) in ([2, 4], [2, 4, 6, 8])
    assert steps(run) == [2, 4] or not intended
    assert litter(path) == []
    assert_sound(run)


def test_a_damaged_rewind_file_is_an_error_with_a_way_out(path: Path) -> None:
    run = make_run(path, 2)
    (path / layout.REWIND).write_bytes(b"x")
    with pytest.raises(KeepstepError, match="damaged") as caught, run.writing():
        pass
    assert "Delete it" in caught.value.hint
    assert not run.lock.held


# -- pins --------------------------------------------------------------------------------------------------


def test_pinned_and_tagged_ones_survive_every_policy(path: Path) -> None:
    run = make_run(path, 2, 4, 6, 8)
    run.pin_board.pin(1)
    run.pin_board.tag(2, "good")
    with run.writing():
        pruned = apply_plan(run, run.plan(Policy.from_spec("latest:1")))
    assert [c.step for c in pruned.removed] == [6]
    assert steps(run) == [2, 4, 8]
    run.pin_board.unpin(2)
    assert run.pins.tags == {}
    with run.writing():
        apply_plan(run, run.plan(Policy.from_spec("latest:1")))
    assert steps(run) == [2, 8]


def test_a_pin_that_comes_after_the_plan_still_holds(path: Path) -> None:
    run = make_run(path, 2, 4, 6)
    plan = run.plan(Policy.from_spec("latest:1"))
    run.pin_board.pin(1)
    with run.writing():
        pruned = apply_plan(run, plan)
    assert ([c.step for c in pruned.removed], [c.step for c in pruned.spared]) == ([4], [2])


@pytest.mark.parametrize("how", ["pin", "tag"])
def test_a_pinned_step_that_is_saved_again_stays_pinned(path: Path, how: str) -> None:
    run = make_run(path, 2, 4)
    run.pin_board.pin(2) if how == "pin" else run.pin_board.tag(2, "good")
    checkpointer = make_checkpointer(path, "latest:1")
    checkpointer.begin("auto")
    for step in (4, 6, 8):
        save(checkpointer, step)
    checkpointer.close()
    assert steps(run) == [4, 8]
    assert (run.pins.pinned, run.pins.tags) == (({3}, {}) if how == "pin" else (frozenset(), {"good": 3}))


def test_damaged_pins_are_an_error_because_guessing_would_unpin(path: Path) -> None:
    run = make_run(path, 2, 4)
    (path / layout.PINS).write_bytes(b'{"pinned": [1')
    with run.writing(), pytest.raises(KeepstepError, match="damaged"):
        run.plan(Policy.from_spec("latest:1"))
    assert steps(run) == [2, 4]


def test_what_a_killed_pin_left_is_cleared_unless_somebody_is_pinning(path: Path) -> None:
    run = make_run(path, 2)
    (path / layout.META / ".pins.json.abc.tmp").write_bytes(b"half")
    with FileLock(path / layout.PINS_LOCK), run.writing():
        assert litter(path) == [".pins.json.abc.tmp"]
    with run.writing():
        assert litter(path) == []


# -- metrics -----------------------------------------------------------------------------------------------


def test_late_metrics_join_and_change_the_best(path: Path) -> None:
    run = make_run(path, 2, 4)
    assert run.find("best").step == 4
    run.record_metrics(1, {"eval_loss": 0.01, "eval_acc": 0.9})
    assert run.find("best").step == 2
    assert run.find(2).metrics == {"eval_loss": 0.01, "eval_acc": 0.9}
    assert run.verify(run.find(2)).ok


def test_a_checkpoint_known_to_be_damaged_does_not_count_as_the_recovery_point(path: Path) -> None:
    run = make_run(path, 2, 4)
    damage(run, 4)
    run.note_verified(run.verify(run.find(4)))
    with run.writing():
        apply_plan(run, run.plan(Policy.from_spec("latest:1")))
    assert 2 in steps(run)
    assert run.resume_point().checkpoint.step == 2


def test_a_plan_at_any_time_of_the_clock_keeps_the_newest(path: Path) -> None:
    run = make_run(path, 2, 4)
    plan = run.plan(Policy.from_spec("within:1s"))
    assert run.latest in plan.keep
    assert datetime.now(UTC).tzinfo is not None


# -- opening -----------------------------------------------------------------------------------------------


def test_opening_what_is_no_run_says_what_it_is(path: Path, tmp_path: Path) -> None:
    make_run(path, 2)
    (tmp_path / "stock" / "checkpoint-5").mkdir(parents=True)
    for place, message in (
        (tmp_path / "missing", "no directory"),
        (tmp_path, "no run itself"),
        (path / "checkpoint-2", "one checkpoint, not a run"),
        (tmp_path / "stock", "1 checkpoints that keepstep did not commit"),
    ):
        with pytest.raises(RunNotFound, match=message):
            Run.open(place)


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}'])
def test_a_damaged_run_file_without_any_manifest_is_an_error_and_never_a_new_run(path: Path, data: bytes) -> None:
    shutil.rmtree(make_run(path, 2).path / "checkpoint-2")
    (path / layout.RUN).write_bytes(data)
    with pytest.raises(RunFileDamaged, match="damaged"):
        make_checkpointer(path, fresh="new-run").begin(None)


def test_a_run_file_that_can_not_be_read_is_an_error_and_never_a_new_run(path: Path) -> None:
    make_run(path, 2)
    (path / layout.RUN).rename(path / "elsewhere")
    (path / layout.RUN).symlink_to(path / "elsewhere")
    with pytest.raises(KeepstepError, match="can't be read"):
        make_checkpointer(path, fresh="new-run").begin(None)


def test_a_run_id_never_leads_out_of_the_run(path: Path) -> None:
    make_run(path, 2)
    file = path / layout.RUN
    file.write_bytes(file.read_bytes().replace(Run.open(path).id.encode(), b"../../../elsewhere"))
    with pytest.raises(KeepstepError, match="damaged"):
        Run.open(path)


# -- outside of the run ------------------------------------------------------------------------------------


def test_a_path_outside_is_external_and_one_inside_is_the_runs_own(path: Path, tmp_path: Path) -> None:
    make_run(path, 2)
    make_run(tmp_path / "other", 4)
    assert external_path(tmp_path / "other" / "checkpoint-4", path) == tmp_path / "other" / "checkpoint-4"
    for reference in (None, True, False, 2, "best", "2", path / "checkpoint-2", "checkpoint-2"):
        assert external_path(reference, path) is None


def test_an_external_one_is_verified_and_damage_refused(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(path, 4)
    assert open_external(path / "checkpoint-4").checkpoint.step == 4
    monkeypatch.chdir(path / "checkpoint-4")
    assert open_external(Path()).checkpoint.step == 4
    damage(run, 4)
    with pytest.raises(ResumeRefused, match="damaged"):
        open_external(path / "checkpoint-4")
    with pytest.raises(CheckpointNotFound):
        open_external(path / "checkpoint-5")


def test_the_metric_of_the_policy_is_the_one_ranked_by(path: Path) -> None:
    assert make_run(path, 2).policy.metric == LOSS
