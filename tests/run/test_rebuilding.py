"""Runs whose run.json, or all of .keepstep, is gone: rebuilt from the manifests of their checkpoints."""

from __future__ import annotations

import logging
import shutil
from datetime import timedelta
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts, own_runs
from keepstep.errors import LayoutTooNew, RunInUse, RunNotFound
from keepstep.operations import pinning
from keepstep.repository import MANIFEST_NAME
from keepstep.repository.manifest import decode, encode
from keepstep.retention import Metric, Policy
from keepstep.run import Run, external_path, is_run, open_external
from tests.small_run import FILES, LOSS, make_checkpointer, make_run, save, steps, writer

DAMAGED = [b"", b"{}", b"[]", b"null", b"\xff", b'{"format": 1}', b"\0" * 300]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run"


def bare(path: Path, *of: int, keep: str = "all") -> str:
    """A run of which only the checkpoints were copied; returns its id."""
    run = make_run(path, *of, keep=keep)
    shutil.rmtree(path / layout.META)
    return run.id


def contents(path: Path) -> dict[str, bytes | None]:
    """Every name below a directory, and the bytes of files."""
    return {str(p.relative_to(path)): p.read_bytes() if p.is_file() else None for p in path.rglob("*")}


def rewrite(checkpoint: Path, **changes: object) -> None:
    """Another manifest in place of a checkpoint's."""
    file = checkpoint / MANIFEST_NAME
    file.write_bytes(encode(replace(decode(file.read_bytes(), path=checkpoint), **changes)))


def test_the_checkpoints_alone_are_a_run(path: Path) -> None:
    """rsync --exclude '.*': identity, order, metrics, policy and best are in the manifests."""
    run_id = bare(path, 2, 4, 6, keep="best:3,latest:2")
    run = Run.open(path)
    assert (run.id, steps(run), run.policy) == (run_id, [2, 4, 6], Policy.from_spec("best:3,latest:2", LOSS))
    assert run.best is not None
    assert (run.best.step, run.find("latest").step, run.resume_point().checkpoint.step) == (6, 6, 6)
    assert is_run(path)


def test_what_is_lost_is_said_in_one_line(path: Path) -> None:
    bare(path, 2, 4)
    said = str(Run.open(path).rebuilt)
    assert "has no .keepstep/run.json" in said
    assert "from the manifests of 2 checkpoints" in said
    for what in ("pins", "tags", "events", "curves", "metrics that came after their commit", "limits"):
        assert what in said
    assert "\n" not in said


def test_looking_writes_nothing(path: Path) -> None:
    bare(path, 2, 4)
    before = contents(path)
    run = Run.open(path)
    run.note_verified(run.verify(run.find(4)))
    with run.readers.reading([1], "being looked at"):
        run.plan()
        run.resume_point("best")
    assert contents(path) == before


def test_whoever_writes_writes_the_run_file_first(path: Path) -> None:
    run_id = bare(path, 2, 4)
    run = Run.open(path)
    with run.writing():
        assert Run.open(path).rebuilt is None
    again = Run.open(path)
    assert (again.id, again.policy, again.rebuilt, run.rebuilt) == (run_id, run.policy, None, None)
    assert [event["event"] for event in again.events.read()] == ["rebuilt", "committed", "committed"]


def test_a_pin_settles_the_run(path: Path) -> None:
    bare(path, 2, 4)
    pinning.pin(Run.open(path), 2)
    run = Run.open(path)
    assert run.rebuilt is None
    assert run.pins.held == {1}
    assert [event["event"] for event in run.events.read()] == ["rebuilt", "committed", "committed", "pinned"]


def test_a_training_goes_on(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Generations and timelines go on above what the manifests name, whatever was lost beside them."""
    make_run(path, 2, 4, 6)
    checkpointer = make_checkpointer(path)
    checkpointer.begin(2)
    save(checkpointer, 4, 0.1)
    checkpointer.close()
    run_id = Run.open(path).id
    shutil.rmtree(path / layout.META)
    with caplog.at_level(logging.WARNING, logger="keepstep"):
        point = checkpointer.begin("auto")
    assert point is not None
    assert point.checkpoint.step == 4
    assert sum("is rebuilt from the manifests" in record.getMessage() for record in caplog.records) == 1
    saved = save(checkpointer, 6, 0.2)
    checkpointer.close()
    assert (saved.run_id, saved.generation, saved.timeline, saved.parent) == (run_id, 5, 2, 4)


def test_a_fresh_start_is_refused_as_in_any_run(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare(path, 2)
    monkeypatch.setattr(own_runs, "_own", set())  # another process trained it
    with pytest.raises(RunInUse, match="checkpoint-2"):
        make_checkpointer(path).begin(None)


def test_a_fresh_start_sets_it_aside_whole(path: Path) -> None:
    run_id = bare(path, 2)
    checkpointer = make_checkpointer(path, fresh="new-run")
    checkpointer.begin(None)
    checkpointer.close()
    old = Run.open(path / layout.PREVIOUS / run_id)
    assert (old.id, steps(old), old.rebuilt) == (run_id, [2], None)


@pytest.mark.parametrize("data", [None, *DAMAGED])
def test_without_its_run_file_a_run_keeps_the_rest(path: Path, data: bytes | None) -> None:
    """Pins, tags, events and what came after a commit are where they were."""
    run = make_run(path, 2, 4, 6)
    run.record_metrics(run.find(2).generation, {"eval_loss": 0.0})
    run.pin_board.tag(run.find(4).generation, "good")
    if data is None:
        (path / layout.RUN).unlink()
    else:
        (path / layout.RUN).write_bytes(data)
    again = Run.open(path)
    assert again.best is not None
    assert (again.id, again.best.step, again.find("good").step) == (run.id, 2, 4)
    lost = again.rebuilt
    assert lost is not None
    assert "limits" in lost.lost
    assert not {"pins", "events"} & set(lost.lost)
    with again.writing():
        pass
    assert Run.open(path).rebuilt is None


def test_a_run_file_of_a_newer_keepstep_is_never_taken_for_damage(path: Path) -> None:
    make_run(path, 2)
    (path / layout.RUN).write_bytes(b'{"format": 2, "run_id": "0", "who": "knows"}')
    with pytest.raises(LayoutTooNew):
        Run.open(path)


def test_of_two_runs_it_is_the_one_that_wrote_last(path: Path, tmp_path: Path) -> None:
    bare(path, 2, 4, 6)
    other = bare(tmp_path / "other", 8)
    shutil.copytree(tmp_path / "other" / "checkpoint-8", path / "checkpoint-8")
    run = Run.open(path)
    assert (run.id, steps(run)) == (other, [8])
    assert [foreign.path.name for foreign in run.foreign] == ["checkpoint-2", "checkpoint-4", "checkpoint-6"]
    assert "checkpoints of run" in str(run.rebuilt)


def test_of_two_runs_the_event_log_knows_whose_directory_it_is(path: Path, tmp_path: Path) -> None:
    run = make_run(path, 2)
    bare(tmp_path / "other", 8)
    shutil.copytree(tmp_path / "other" / "checkpoint-8", path / "checkpoint-8")
    (path / layout.RUN).unlink()
    assert Run.open(path).id == run.id


def test_a_manifest_that_names_no_policy_keeps_all(path: Path) -> None:
    """As an earlier keepstep wrote them: nothing is removed on a guess, and the usual metric ranks."""
    bare(path, 2, 4)
    for name in ("checkpoint-2", "checkpoint-4"):
        rewrite(path / name, written_by={"torch": "2.0"})
    run = Run.open(path)
    assert run.best is not None
    assert run.best.step == 4
    assert run.plan().remove == ()
    assert "policy and limits" in str(run.rebuilt)


@pytest.mark.parametrize("said", [{"keep": "bets:3"}, {"keep": 3}, {"keep": "best:3"}, {"keep": None, "mode": []}])
def test_a_policy_that_is_none_keeps_all(path: Path, said: dict[str, object]) -> None:
    bare(path, 2)
    rewrite(path / "checkpoint-2", written_by=said, metrics={"accuracy": 1.0})
    run = Run.open(path)
    assert (run.policy.metric, run.plan().remove) == (None, ())


def test_the_metric_of_a_run_is_in_its_manifests(path: Path) -> None:
    checkpointer = Checkpointer(path, Policy.from_spec("best:1", Metric("eval_f1", "max")))
    checkpointer.begin("auto")
    for step, value in ((2, 0.9), (4, 0.8)):
        checkpointer.save(Facts(step, metrics={"eval_f1": value, "eval_loss": -value}), writer(step))
    checkpointer.close()
    shutil.rmtree(path / layout.META)
    best = Run.open(path).best
    assert best is not None
    assert best.step == 2


def test_manifests_that_can_not_be_read_make_no_run(path: Path) -> None:
    bare(path, 2)
    (path / "checkpoint-2" / MANIFEST_NAME).write_bytes(b"{}")
    with pytest.raises(RunNotFound, match="did not commit"):
        Run.open(path)


def test_hostile_ids_and_links_make_no_run(path: Path, tmp_path: Path) -> None:
    bare(path, 2)
    rewrite(path / "checkpoint-2", run_id="../../outside")
    bare(tmp_path / "other", 4)
    (path / "checkpoint-4").symlink_to(tmp_path / "other" / "checkpoint-4")
    with pytest.raises(RunNotFound):
        Run.open(path)


def test_clocks_of_writers_may_differ_within_a_run(path: Path) -> None:
    """The order is that of the generations, and the newest one names the policy."""
    bare(path, 2, 4)
    created = Run.open(path).find(2).created
    rewrite(path / "checkpoint-4", created=created - timedelta(days=1), written_by={"keep": "latest:7"})
    run = Run.open(path)
    assert (run.find("latest").step, run.policy.rules) == (4, Policy.from_spec("latest:7", None).rules)


# -- checkpoints that lie in a run's directory under another name ----------------------------------------------


def test_a_download_in_the_directory_of_a_run_is_named_by_path_or_word(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`last-checkpoint` of the Hub, inside an output_dir that is new."""
    source = make_run(tmp_path / "elsewhere", 4).find(4)
    assert source.path is not None
    shutil.copytree(source.path, path / "last-checkpoint")
    monkeypatch.chdir(tmp_path)
    for reference in (path / "last-checkpoint", "run/last-checkpoint", "./run/last-checkpoint", "last-checkpoint"):
        found = external_path(reference, path)
        assert found is not None, reference
        assert open_external(found).checkpoint.step == 4
    for newest in ("auto", "latest", True):
        assert external_path(newest, path) == path / "last-checkpoint"
    for other in (None, False, 4, "4", "step:4", "best", "nowhere"):
        assert external_path(other, path) is None


def test_a_run_with_checkpoints_goes_on_from_its_own(path: Path) -> None:
    make_run(path, 2, 4)
    shutil.copytree(path / "checkpoint-2", path / "last-checkpoint")
    assert external_path("auto", path) is None


def test_a_tag_is_no_directory(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(path, 2, 4)
    shutil.copytree(path / "checkpoint-2", path / "good")
    assert external_path("good", path) == path / "good"
    run.pin_board.tag(2, "good")
    assert external_path("good", path) is None


def test_a_checkpoint_of_another_run_in_the_directory_is_named_by_its_path(path: Path, tmp_path: Path) -> None:
    make_run(path, 2, 4)
    other = make_run(tmp_path / "other", 8)
    shutil.copytree(tmp_path / "other" / "checkpoint-8", path / "checkpoint-8")
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin(path / "checkpoint-8")
    checkpointer.close()
    assert point is not None
    assert (point.checkpoint.run_id, point.checkpoint.step) == (other.id, 8)
    assert steps(Run.open(path)) == [2, 4], "nothing of the run is set aside for another run's"


def test_the_runs_own_under_another_name_is_rewound_to(path: Path) -> None:
    """What is newer belongs to the course that was left, as if it were named by its step."""
    make_run(path, 2, 4, 6)
    shutil.copytree(path / "checkpoint-4", path / "checkpoint-4-copy")
    checkpointer = make_checkpointer(path)
    point = checkpointer.begin(path / "checkpoint-4-copy")
    saved = save(checkpointer, 6, 0.1)
    checkpointer.close()
    assert point is not None
    assert (saved.parent, saved.timeline, steps(Run.open(path))) == (2, 2, [2, 4, 6])
    assert [checkpoint.generation for checkpoint in Run.open(path).aside] == [3]


def test_links_to_the_runs_own_are_the_runs_own(path: Path) -> None:
    make_run(path, 2, 4)
    (path / "best").symlink_to(path / "checkpoint-2")
    assert external_path(path / "best", path) is None
    assert Run.open(path).find(path / "best").step == 2


def test_a_damaged_download_is_refused(path: Path, tmp_path: Path) -> None:
    make_run(tmp_path / "elsewhere", 4)
    shutil.copytree(tmp_path / "elsewhere" / "checkpoint-4", path / "last-checkpoint")
    (path / "last-checkpoint" / FILES[0]).write_bytes(b"damaged")
    with pytest.raises(Exception, match=r"last-checkpoint is damaged: model\.bin"):
        make_checkpointer(path).begin("auto")
