"""Thinning on a real disk: the same bytes under another name, nothing lost on the way, no way back taken by mistake."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.errors import CheckpointCorrupt, CheckpointNotFound, ResumeRefused, RunLocked
from keepstep.model import Damage, Kind
from keepstep.operations.removing.thinning import ThinRefused, thin
from keepstep.run import Run
from tests.operations.runs import flip, make_run, training


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3})


def _names(run: Run) -> list[str]:
    return sorted(path.name for path in run.path.iterdir() if not path.name.startswith("."))


def test_the_weights_are_the_same_file(run: Run) -> None:
    weights = run.path / "checkpoint-1" / "model.safetensors"
    before = os.stat(weights)

    done = thin(run, 1)

    after = os.stat(run.path / "weights-1" / "model.safetensors")
    assert (after.st_ino, after.st_mtime_ns, after.st_nlink) == (before.st_ino, before.st_mtime_ns, 1)
    assert _names(run) == ["checkpoint-2", "checkpoint-3", "weights-1"]
    assert done.freed_bytes == 100
    thinned = run.find(1)
    assert (thinned.kind, thinned.generation, thinned.metrics) == (Kind.WEIGHTS, 1, done.before.metrics)
    assert [file.path for file in thinned.files] == ["model.safetensors"]
    assert run.verify(thinned).ok
    assert run.best == thinned


def test_pins_tags_and_late_metrics_stay_with_it(run: Run) -> None:
    run.record_metrics(1, {"eval_loss": 0.05})
    thin(run, 1)
    run.pin_board.tag(1, "release")
    run.record_metrics(1, {"other": 2.0})
    again = Run.open(run.path)
    assert again.find("release").metrics == {"eval_loss": 0.05, "eval_runtime": 1.5, "other": 2.0}
    assert again.plan().reasons(1) == ("everything is kept", "pinned")


def test_it_is_told_in_the_events(run: Run) -> None:
    thin(run, 1)
    (event,) = [event for event in run.events.read() if event["event"] == "thinned"]
    assert (event["step"], event["generation"], event["freed_bytes"]) == (1, 1, 100)
    assert event["reason"] == "asked for"


def test_a_thinned_one_is_no_resume_point(run: Run) -> None:
    thin(run, 2)
    with pytest.raises(ResumeRefused, match="weights only") as error:
        run.resume_point(2)
    assert "Start a new run from its weights" in error.value.hint
    assert "weights-2" in error.value.hint
    assert "steps 1, 3" in error.value.hint
    assert run.resume_point().checkpoint.step == 3


def test_a_resume_leaves_it_in_the_run(run: Run) -> None:
    """A new generation would have made it the newest, and a resume would have set it aside."""
    thin(run, 1)
    with training(run.path) as checkpointer:
        assert checkpointer.run.latest is not None
        assert checkpointer.run.latest.step == 3
    assert _names(run) == ["checkpoint-2", "checkpoint-3", "weights-1"]


@pytest.mark.parametrize(
    ("step", "reason"), [(3, "the recovery point"), (2, "pinned"), (1, "holds weights only already")]
)
def test_what_must_stay_whole_is_refused(run: Run, step: int, reason: str) -> None:
    thin(run, 1)
    run.pin_board.pin(2)
    with pytest.raises(ThinRefused, match=reason):
        thin(run, step)
    assert _names(run) == ["checkpoint-2", "checkpoint-3", "weights-1"]


def test_what_is_not_there_is_refused(run: Run) -> None:
    with pytest.raises(CheckpointNotFound):
        thin(run, 7)


def test_a_damaged_recovery_point_stops_it(run: Run) -> None:
    flip(run.path / "checkpoint-3" / "model.safetensors")
    with pytest.raises(CheckpointCorrupt):
        thin(run, 1)
    assert "checkpoint-1" in _names(run)


def test_the_lock_is_respected(run: Run) -> None:
    with training(run.path), pytest.raises(RunLocked):
        thin(run, 1)


def test_the_policy_thins_what_leaves_the_recovery_set(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4, 5: 0.15}, keep="latest:2,best:2")
    assert _names(run) == ["checkpoint-4", "checkpoint-5", "weights-1"]
    run = make_run(tmp_path / "whole", {1: 0.1, 2: 0.2, 3: 0.3, 4: 0.4}, keep="latest:2,best:2:full")
    assert _names(run) == ["checkpoint-1", "checkpoint-2", "checkpoint-3", "checkpoint-4"]


def test_without_hard_links_it_is_copied_and_said(
    run: Run, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("keepstep.stores.local.os.link", refuse)
    thin(run, 1)
    assert "no hard links" in caplog.text
    assert run.verify(run.find(1)).ok


def test_a_copy_of_damaged_bytes_is_refused(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.LocalStore.link", lambda *_: False)
    flip(run.path / "checkpoint-1" / "model.safetensors")
    with pytest.raises(OSError, match="digest differs"):
        thin(run, 1)
    assert _names(run) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_a_reader_sees_one_of_the_two(run: Run) -> None:
    with run.writing():
        run.repository.thin(run.find(1))
        first = Run.open(run.path).checkpoints[0]
        assert (first.generation, first.kind) == (1, Kind.FULL)
        assert not Run.open(run.path).plan().changes
    with run.writing():
        assert _names(run) == ["checkpoint-1", "checkpoint-2", "checkpoint-3"]


def test_weights_under_names_that_nobody_knows_stay_whole(tmp_path: Path) -> None:
    """DeepSpeed's weights lie among its optimizer's: a thinned checkpoint would hold none."""

    def write(directory: Path) -> None:
        (directory / "global_step1").mkdir()
        for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
            (directory / "global_step1" / name).write_bytes(b"x" * 100)
        (directory / "config.json").write_text("{}")

    with training(tmp_path / "run", "best:2") as checkpointer:
        for step in range(1, 5):
            checkpointer.save(Facts(step, metrics={"eval_loss": float(step)}), write)
    run = Run.open(tmp_path / "run")
    assert [(c.step, c.kind) for c in run.checkpoints] == [(1, Kind.FULL), (2, Kind.FULL), (4, Kind.FULL)]
    with pytest.raises(
        ThinRefused, match="in DeepSpeed's files alone, which a resume needs: it stays whole"
    ) as refused:
        thin(run, 1)
    assert "stage3_gather_16bit_weights_on_model_save" in str(refused.value.hint)
    reasons = {decision.checkpoint.step: decision.reasons for decision in run.plan().decisions}
    assert "whole: its weights lie in DeepSpeed's files alone" in reasons[1]
    assert not any("DeepSpeed" in reason for reason in reasons[4])
    (run.path / "checkpoint-1" / "global_step1" / "zero_pp_rank_0_mp_rank_00_optim_states.pt").write_bytes(b"y" * 100)
    assert run.verify(run.find(1)).damage is Damage.WEIGHTS


def test_weights_apart_from_deepspeed_s_files_are_what_is_left(tmp_path: Path) -> None:
    """What names or reads DeepSpeed's directory goes with it; damage in there spoils a resume alone."""

    def write(directory: Path) -> None:
        (directory / "global_step1").mkdir()
        names = ("global_step1/mp_rank_00_model_states.pt", "latest", "zero_to_fp32.py", "zero_to_torch.py")
        for name in (*names, "model.safetensors", "config.json"):
            (directory / name).write_bytes(b"x" * 100)

    with training(tmp_path / "run", "all") as checkpointer:
        for step in range(1, 4):
            checkpointer.save(Facts(step), write)
    run = Run.open(tmp_path / "run")
    thin(run, 1)
    left = {path.name for path in (run.path / "weights-1").iterdir()}
    assert left == {"model.safetensors", "config.json", "keepstep.json"}
    (run.path / "checkpoint-2" / "global_step1" / "mp_rank_00_model_states.pt").write_bytes(b"y" * 100)
    assert run.verify(run.find(2)).damage is Damage.RESUME


def test_what_others_put_there_stays_with_the_weights(run: Run, tmp_path: Path) -> None:
    directory = run.path / "checkpoint-1"
    (directory / "ema.pt").write_bytes(b"sealed")
    with run.writing():
        run.seal(run.find(1))
    (tmp_path / "elsewhere").write_bytes(b"not ours")
    (directory / "late.pt").write_bytes(b"never sealed")
    (directory / "merged").mkdir()
    (directory / "merged" / "optimizer.pt").write_bytes(b"no state of this training")
    (directory / "link").symlink_to(tmp_path / "elsewhere")
    before = os.stat(directory / "late.pt").st_ino

    done = thin(run, 1)

    left = run.path / "weights-1"
    assert {file.path: file.by for file in done.after.files} == {
        "model.safetensors": "",
        "ema.pt": "others",
        "late.pt": "others",
        "merged/optimizer.pt": "others",
    }
    assert os.stat(left / "late.pt").st_ino == before
    assert (left / "link").is_symlink() and (left / "link").read_bytes() == b"not ours"
    found = run.verify(run.find(1))
    assert (found.problems, [entry.path for entry in found.added]) == ((), ["link"])
    assert done.freed_bytes == 100


def test_what_nobody_needs_and_is_gone_does_not_stop_it(run: Run) -> None:
    directory = run.path / "checkpoint-1"
    (directory / "ema.pt").write_bytes(b"sealed")
    with run.writing():
        run.seal(run.find(1))
    (directory / "ema.pt").unlink()
    assert [file.path for file in thin(run, 1).after.files] == ["model.safetensors"]


def test_what_lost_its_optimizer_has_nothing_to_drop(run: Run) -> None:
    (run.path / "checkpoint-1" / "optimizer.pt").unlink()
    with pytest.raises(ThinRefused, match=r"holds weights only already: optimizer\.pt is missing"):
        thin(run, 1)


def test_the_one_that_stays_must_be_a_resume_point(run: Run) -> None:
    """The newest lost its optimizer: the one before it is the recovery point, and stays whole."""
    (run.path / "checkpoint-3" / "optimizer.pt").unlink()
    with pytest.raises(ThinRefused, match="stays whole: newest: the recovery point"):
        thin(run, 2)
    assert thin(run, 1).after.name == "weights-1"
