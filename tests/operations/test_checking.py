"""Tests of checking: what is found, what is noted, what is moved, what is passed over."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.model import Kind
from keepstep.operations.checking import best_that_holds, candidates, check, safe_to_resume, unreadable
from keepstep.run import Run
from tests.operations.runs import SIZE, cut_manifest, flip, make_run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def _verified(run: Run) -> list[tuple[int, bool]]:
    return [(event["step"], event["ok"]) for event in run.events.read() if event["event"] == "verified"]


def test_good_ones_are_read_whole_and_noted(run: Run) -> None:
    read: list[int] = []

    outcomes = check(run, candidates(run), on_bytes=read.append)

    assert [outcome.ok for outcome in outcomes] == [True, True, True]
    assert sum(read) == candidates(run).size_bytes == 3 * SIZE
    assert _verified(run) == [(1, True), (2, True), (3, True)]


def test_every_problem_is_listed(run: Run) -> None:
    flip(run.path / "checkpoint-1" / "model.safetensors")
    flip(run.path / "checkpoint-2" / "optimizer.pt")

    outcomes = check(run, candidates(run))

    assert [outcome.ok for outcome in outcomes] == [False, False, True]
    assert "digest differs" in str(outcomes[0].problems[0])
    assert str(outcomes[1].problems[0]).startswith("optimizer.pt has other bytes")
    assert run.events.damaged() == {1, 2}
    assert (run.path / "checkpoint-1").is_dir()


def test_quarantine_moves_bad_ones_and_only_those(run: Run) -> None:
    flip(run.path / "checkpoint-2" / "model.safetensors")

    with run.writing():
        outcomes = check(run, candidates(run), quarantine=True)

    moved = outcomes[1].moved_to
    assert moved is not None
    assert (moved / "model.safetensors").is_file()
    assert [c.step for c in run.checkpoints] == [1, 3]
    assert outcomes[0].moved_to is None


def test_an_unreadable_manifest_is_a_problem_and_stays_where_it_is(run: Run) -> None:
    cut_manifest(run.path / "checkpoint-2")

    with run.writing():
        outcomes = check(run, candidates(run), quarantine=True)

    assert [(outcome.step, outcome.ok) for outcome in outcomes] == [(1, True), (2, False), (3, True)]
    assert outcomes[1].to_json()["generation"] is None
    assert (run.path / "checkpoint-2").is_dir()


@pytest.mark.parametrize("reference", ["2", "step:2", "checkpoint-2"])
def test_an_unreadable_one_can_be_named(run: Run, reference: str) -> None:
    cut_manifest(run.path / "checkpoint-2")
    assert [checked.step for checked in candidates(run, reference).unreadable] == [2]


def test_an_unknown_reference_stays_unknown(run: Run) -> None:
    cut_manifest(run.path / "checkpoint-2")
    with pytest.raises(CheckpointNotFound):
        candidates(run, "7")


def test_no_manifest_and_another_run_are_no_problems(run: Run, tmp_path: Path) -> None:
    (run.path / "checkpoint-8").mkdir()
    other = make_run(tmp_path / "other", {9: 0.1})
    (other.path / "checkpoint-9").rename(run.path / "checkpoint-9")

    assert len(run.foreign) == 2
    assert unreadable(run) == ()


def test_a_read_only_event_log_does_not_stop_a_check(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(run, "note_verified", refuse)
    assert all(outcome.ok for outcome in check(run, candidates(run)))


def test_resume_passes_damaged_ones_over_and_notes_them(run: Run) -> None:
    flip(run.path / "checkpoint-3" / "optimizer.pt")

    point = safe_to_resume(run, "latest")

    assert point.checkpoint.step == 2
    assert run.events.damaged() == {3}


def test_the_best_is_the_best_that_holds(run: Run) -> None:
    assert best_that_holds(run).checkpoint.step == 1

    flip(run.path / "checkpoint-1" / "model.safetensors")
    point = best_that_holds(run)

    assert point.checkpoint.step == 2
    assert "rank 2" in point.reason
    assert [v.checkpoint.step for v in point.passed_over] == [1]
    assert run.events.damaged() == {1}


def test_weights_only_can_be_best(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1}, kind=Kind.WEIGHTS)
    assert best_that_holds(run).path.name == "weights-1"


def test_no_best_without_metric_or_without_one_that_holds(run: Run, tmp_path: Path) -> None:
    unranked = make_run(tmp_path / "unranked", {1: None}, metric=None)
    with pytest.raises(CheckpointNotFound, match="no metric"):
        best_that_holds(unranked)

    for step in (1, 2, 3):
        flip(run.path / f"checkpoint-{step}" / "model.safetensors")
    with pytest.raises(CheckpointNotFound, match="no best checkpoint that holds"):
        best_that_holds(run)


# -- by use ------------------------------------------------------------------------------------------------


def test_without_its_optimizer_one_holds_weights_and_is_no_damage(run: Run) -> None:
    (run.path / "checkpoint-2" / "optimizer.pt").unlink()
    (run.path / "checkpoint-2" / "ema.pt").write_bytes(b"average")

    stripped = check(run, candidates(run))[1]

    assert (stripped.ok, stripped.lost, [entry.path for entry in stripped.added]) == (
        True,
        ("optimizer.pt",),
        ["ema.pt"],
    )
    shown = stripped.to_json()
    assert (shown["resumable"], shown["missing"]) == (False, ["optimizer.pt"])
    assert shown["added"] == [{"path": "ema.pt", "kind": "file", "size_bytes": 7}]
    assert run.events.damaged() == set() and run.events.lost() == {2: ("optimizer.pt",)}


def test_a_resume_passes_over_what_holds_weights_alone(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    (run.path / "checkpoint-3" / "optimizer.pt").unlink()

    point = safe_to_resume(run, "latest")

    assert (point.checkpoint.step, point.passed_over) == (2, ())
    assert [foreign.path.name for foreign in point.unusable] == ["checkpoint-3"]
    assert "checkpoint-3 is no resume point: it holds weights only: optimizer.pt is missing" in caplog.text
    assert (run.path / "checkpoint-3").is_dir()


def test_one_that_holds_weights_alone_is_refused_by_name(run: Run) -> None:
    (run.path / "checkpoint-3" / "optimizer.pt").unlink()
    with pytest.raises(ResumeRefused, match=r"holds weights only: optimizer\.pt is missing") as raised:
        safe_to_resume(run, "3")
    assert "steps 1, 2" in raised.value.hint and "keepstep export" in raised.value.hint


def test_where_all_hold_weights_alone_the_way_out_is_named(run: Run) -> None:
    for step in (1, 2, 3):
        (run.path / f"checkpoint-{step}" / "optimizer.pt").unlink()
    with pytest.raises(CheckpointNotFound, match="no checkpoint to resume from") as raised:
        safe_to_resume(run, "latest")
    assert "Put that back" in raised.value.hint and "from_pretrained" in raised.value.hint


@pytest.mark.parametrize("spoil", [flip, Path.unlink])
def test_the_best_needs_its_weights_alone(run: Run, spoil: Callable[[Path], None]) -> None:
    spoil(run.path / "checkpoint-1" / "optimizer.pt")

    point = best_that_holds(run)

    assert (point.checkpoint.step, point.passed_over) == (1, ())
    assert "Its weights hold, but optimizer.pt" in point.reason


def test_what_others_sealed_and_changed_later_is_damage_and_no_reason_not_to_resume(
    run: Run, caplog: pytest.LogCaptureFixture
) -> None:
    results = run.path / "checkpoint-3" / "eval_results.json"
    with run.writing():
        results.write_text("{}")
        run.seal(run.checkpoints[-1])
    results.write_text("[]")

    assert not check(run, candidates(run))[2].ok
    assert run.events.damaged() == set()
    assert safe_to_resume(run, "latest").checkpoint.step == 3
    assert "eval_results.json has other bytes" in caplog.text and "no loader reads it" in caplog.text


def test_damage_names_the_way_of_who_changed_it_on_purpose(run: Run) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")
    with pytest.raises(ResumeRefused, match="is damaged") as raised:
        safe_to_resume(run, "3")
    assert f"keepstep reseal {run.path} 3" in raised.value.hint
