"""What doctor says of a run directory: its policy, what lies in it, and what went wrong there."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.model import Kind
from keepstep.operations.checking import candidates, check
from keepstep.operations.doctor import Finding, examine_run
from keepstep.retention import Metric
from keepstep.run import Run
from tests.operations.runs import LOSS, cut_manifest, flip, make_run, training, write

KEEP = "best:2,latest:2"


def _found(run: Run) -> dict[str, Finding]:
    return {finding.id: finding for finding in examine_run(Run.open(run.path)).findings}


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """A sound run of steps 3 to 5; the best of before are thinned."""
    return make_run(tmp_path / "run", {1: 0.1, 2: 0.9, 3: 0.8, 4: 0.7, 5: 0.6}, keep=KEEP)


def _damage(run: Run, step: int) -> None:
    """A byte of a checkpoint changes, and a check finds it."""
    flip(run.path / f"checkpoint-{step}" / "model.safetensors")
    check(run, candidates(run))


def test_a_sound_run_has_no_finding_of_its_own(run: Run) -> None:
    assert {id_ for id_ in _found(run) if int(id_[1:]) > 700} == set()


def test_e701_nothing_to_resume_from(tmp_path: Path, run: Run) -> None:
    weights = make_run(tmp_path / "weights", {1: 0.5}, kind=Kind.WEIGHTS)

    assert "only weights are left" in _found(weights)["E701"].what
    assert "E701" not in _found(run)
    assert "E701" not in _found(make_run(tmp_path / "empty", {})), "nothing was saved yet"


def test_e701_all_damaged(run: Run) -> None:
    _damage(run, 4)
    assert "E701" not in _found(run)

    _damage(run, 5)

    assert "every whole checkpoint failed" in _found(run)["E701"].what


def test_e702_and_w703_damage(run: Run) -> None:
    _damage(run, 4)
    assert "step" in _found(run)["W703"].what
    assert "E702" not in _found(run)

    _damage(run, 5)
    assert "step 5" in _found(run)["E702"].what


def _quarantine(run: Run, *steps: int) -> None:
    for step in steps:
        flip(run.path / f"checkpoint-{step}" / "model.safetensors")
    with run.writing():
        check(run, candidates(run), quarantine=True)


def test_what_was_found_is_found_after_a_quarantine(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {3: 0.5, 4: 0.4, 5: 0.3}, keep="all")
    _quarantine(run, 4, 5)
    found = _found(run)
    assert "step 5 failed its check and is in quarantine: step 3 is the newest now" in found["E702"].what
    assert "--quarantined" in found["E702"].fix
    assert found["W703"].what == "in quarantine: steps 4"
    assert "E701" not in found


def test_a_run_whose_every_checkpoint_is_in_quarantine_has_nothing_to_resume_from(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.5, 2: 0.4}, keep="all")
    _quarantine(run, 1, 2)
    found = _found(run)
    assert "every checkpoint is in quarantine" in found["E701"].what
    assert "E702" not in found


def test_a_quarantine_that_the_training_has_gone_past_is_a_warning(run: Run) -> None:
    _quarantine(run, 5)
    with training(run.path, KEEP) as held:
        held.save(Facts(6, metrics={"eval_loss": 0.5}), write)
    found = _found(run)
    assert "E702" not in found
    assert found["W703"].what == "in quarantine: steps 5"


def test_damage_that_was_mended_is_no_finding(run: Run) -> None:
    _damage(run, 5)
    flip(run.path / "checkpoint-5" / "model.safetensors")
    check(run, candidates(run))

    assert {"E702", "W703"}.isdisjoint(_found(run))


def test_w704_strangers(tmp_path: Path, run: Run) -> None:
    other = make_run(tmp_path / "other", {99: 0.5})
    assert "W704" not in _found(run)

    os.rename(other.path / "checkpoint-99", run.path / "checkpoint-99")

    assert "checkpoint-99" in _found(run)["W704"].what


def test_w705_unreadable_manifests(run: Run) -> None:
    assert "W705" not in _found(run)
    cut_manifest(run.path / "checkpoint-4")
    found = _found(run)
    assert "checkpoint-4" in found["W705"].what
    assert "W704" not in found, "it is ours, and damaged"


def test_w706_checkpoints_without_a_metric(tmp_path: Path, run: Run) -> None:
    assert "W706" not in _found(run)
    assert "steps 2" in _found(make_run(tmp_path / "late", {1: 0.5, 2: None, 3: 0.3}))["W706"].what
    assert "W706" in _found(make_run(tmp_path / "nan", {1: float("nan")}))
    assert "W706" not in _found(make_run(tmp_path / "unranked", {1: None}, metric=None))


def test_i707_what_is_set_aside(run: Run) -> None:
    assert "I707" not in _found(run)
    with run.writing():
        run.rewind(run.find(4))
    assert "set aside" in _found(run)["I707"].what


def test_w708_the_last_save_failed(run: Run) -> None:
    run.events.append("failed", step=6, error="the disk is gone", retried=True)
    assert "step 6" in _found(run)["W708"].what

    run.events.append("committed", step=6, generation=6)
    assert "W708" not in _found(run)


def test_the_policy_of_the_run_is_judged(tmp_path: Path, run: Run) -> None:
    assert "W204" in _found(make_run(tmp_path / "one", {1: 0.5}, keep="best:3,latest:1"))
    assert "W204" not in _found(run)


@pytest.mark.parametrize(
    ("arguments", "id_"),
    [
        ({"save_strategy": "steps", "save_steps": 3, "eval_strategy": "steps", "eval_steps": 2}, "W105"),
        ({"save_strategy": "epoch", "num_train_epochs": 1, "max_steps": -1}, "W301"),
        ({"save_strategy": "steps", "eval_strategy": "no"}, "W102"),
    ],
)
def test_what_the_newest_checkpoint_remembers_is_judged(tmp_path: Path, arguments: dict[str, object], id_: str) -> None:
    with training(tmp_path / "run", KEEP if id_ != "W102" else "latest:2", LOSS if id_ != "W102" else None) as held:
        held.save(Facts(1, metrics={"eval_loss": 0.5}, fingerprint={"arguments": arguments}), write)
    assert id_ in _found(held.run)


def test_a_metric_that_is_ranked_against_its_name(tmp_path: Path) -> None:
    turned = make_run(tmp_path / "turned", {1: 0.5}, keep=KEEP, metric=Metric("eval_loss", "max"))
    assert "W108" in _found(turned)


def test_it_is_torch_free_and_needs_no_lock(run: Run) -> None:
    code = (
        "import sys; from keepstep.run.run import Run; from keepstep.operations.doctor import examine_run\n"
        f"examine_run(Run.open({str(run.path)!r}))\n"
        "assert not {'torch', 'transformers', 'numpy', 'yaml'} & set(sys.modules)"
    )
    with run.writing():
        subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_policy_and_settings_that_a_run_does_not_remember_are_not_guessed(run: Run) -> None:
    """Without a fingerprint nothing is known of the schedule, and nothing is said of it."""
    seen = examine_run(run)
    assert {"W102", "W301", "W302", "W305"}.isdisjoint({finding.id for finding in seen.findings})
    assert seen.gaps == ()
