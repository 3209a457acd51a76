"""Every rule of doctor speaks of what is wrong, and is silent about the same put right."""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from keepstep.operations.doctor import RULES, Options, examine, surroundings
from keepstep.operations.doctor.facts import Place
from tests.operations.doctoring import BIG, CASES, RANKED, Case, S, found, report

ELSEWHERE = {
    "I109": "tests/failures/test_doctor_attach.py",
    **dict.fromkeys(("W310", "E311", "W401", "I402", "I403", "W404", "E503", "E206", "W207"), "below"),
    **dict.fromkeys(("W504", "E505", "W506", "W507"), "tests/operations/test_doctor_jobs.py"),
    **dict.fromkeys((id_ for id_ in RULES if RULES[id_].number > 700), "tests/operations/test_doctor_runs.py"),
}
"""Rules that a script alone can't show, and where they are tested."""


@pytest.fixture
def script(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A place for a script, in the working directory; no scheduler around it."""
    monkeypatch.chdir(tmp_path)
    for name in ("SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "train.py"


@pytest.mark.parametrize("id_", sorted(set(CASES) - {"E206", "W207", "E405"}))
def test_a_rule_speaks_and_is_silent(script: Path, id_: str) -> None:
    case = CASES[id_]

    assert id_ in found(script, case.bad, **case.options)
    assert id_ not in found(script, case.good, **case.options)


def test_every_rule_has_a_test() -> None:
    assert set(CASES) | set(ELSEWHERE) == set(RULES)


def test_ids_are_unique_by_their_number_and_texts_are_sentences() -> None:
    assert len({rule.number for rule in RULES.values()}) == len(RULES)
    for rule in RULES.values():
        assert rule.what.endswith((".", '"no".')), rule.id
        assert rule.why.endswith(".") and rule.fix.endswith("."), rule.id
        assert not rule.title.endswith(".") and not rule.solved.endswith("."), rule.id


@pytest.mark.parametrize("id_", sorted(id_ for id_ in CASES if RULES[id_].solved))
def test_what_keepstep_solves_is_silent_in_an_attached_training(script: Path, id_: str) -> None:
    case: Case = CASES[id_]

    attached = replace(case.bad, attach='mode="min"')

    assert id_ not in found(script, attached, **case.options)


def test_a_sound_training_has_no_finding(script: Path) -> None:
    sound = S(f'"runs/a", save_total_limit=3, {RANKED}', train='resume_from_checkpoint="auto"', attach="")

    assert report(script, sound).findings == ()


# -- what the directory tells --------------------------------------------------------------------------------


def test_e206_one_checkpoint_is_larger_than_the_disk(script: Path) -> None:
    assert "E206" in found(script, S('"runs/a"'), **BIG)
    assert "E206" not in found(script, S('"runs/a"'), checkpoint_bytes=1)


def test_w207_the_checkpoints_do_not_fit(script: Path) -> None:
    free = os.statvfs(script.parent)
    quarter = free.f_bavail * free.f_frsize // 4

    assert "W207" in found(script, S('"runs/a", save_total_limit=9'), checkpoint_bytes=quarter)
    assert "W207" not in found(script, S('"runs/a", save_total_limit=2'), checkpoint_bytes=quarter)
    assert "W207" in found(script, S('"runs/a", save_steps=10'), checkpoint_bytes=quarter, steps=100)
    assert "W207" not in found(script, S('"runs/a", save_steps=50'), checkpoint_bytes=quarter, steps=100)


@pytest.mark.parametrize(
    ("before", "judged"),
    [
        ("", True),
        ("lora = LoraConfig(r=8); model = get_peft_model(model, lora)", False),
        ("lora = LoraConfig(r=8)", True),
    ],
)
def test_the_size_of_a_training_of_all_weights_says_nothing_of_an_adapters(
    script: Path, before: str, judged: bool
) -> None:
    one = S('"runs/a"', before=before)
    assert ("E206" in found(script, one, of_all_weights=True, **BIG)) is judged
    assert "E206" in found(script, one, **BIG)
    if not judged:
        unjudged = report(script, one, of_all_weights=True, **BIG).to_json()
        assert "checkpoint of the adapter (--lora-r)" in str(unjudged)


@pytest.mark.parametrize(
    ("arguments", "judged"),
    [
        ("", True),
        (", save_only_model=True", False),
        (', optim="adamw_torch"', True),
        (', optim="adamw_bnb_8bit"', False),
        (', optim="adafactor"', False),
    ],
)
def test_the_size_of_a_training_by_adamw_is_that_of_such_a_training(script: Path, arguments: str, judged: bool) -> None:
    given = found(script, S(f'"runs/a"{arguments}'), checkpoint_bytes=10**18, weights_bytes=1)
    assert ("E206" in given) is judged


def test_e311_a_fresh_start_among_checkpoints(script: Path) -> None:
    (script.parent / "runs/a/checkpoint-300").mkdir(parents=True)

    assert "steps 300" in found(script, S('"runs/a"'))["E311"].what
    assert "E311" not in found(script, S('"runs/a"', train="resume_from_checkpoint=True"))
    assert "E311" not in found(script, S('"runs/b"'))
    assert "E311" not in found(script, S('"runs/a"', attach='fresh="new-run"'))


def test_w310_fewer_loggers_than_before(script: Path) -> None:
    events = script.parent / "runs/a/runs/Nov20/events.out.tfevents.1"
    events.parent.mkdir(parents=True)
    events.touch()
    resumed = {"train": "resume_from_checkpoint=True"}

    assert "tensorboard" in found(script, S('"runs/a", report_to="wandb"', **resumed))["W310"].what
    assert "W310" not in found(script, S('"runs/a", report_to=["wandb", "tensorboard"]', **resumed))
    assert "W310" not in found(script, S('"runs/a", report_to="all"', **resumed))
    assert "W310" not in found(script, S('"runs/a", report_to="wandb"')), "a fresh start may log elsewhere"


def test_e405_two_configs_in_one_directory(script: Path) -> None:
    case = CASES["E405"]
    going_on = replace(case.bad, train="resume_from_checkpoint=True")
    for given, expected in ((case.bad, True), (case.good, False), (going_on, False)):
        script.write_text(given.text)
        findings = [finding.id for report in examine(script) for finding in report.findings]
        assert ("E405" in findings) is expected


@pytest.fixture
def placed(script: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., set[str]]:
    """The ids that are found for a script whose output_dir lies in a place like this."""

    def look(more: str = "", **facts: object) -> set[str]:
        place = Place("runs/a", **facts)  # type: ignore[arg-type]
        monkeypatch.setattr("keepstep.operations.doctor.surroundings.look_at", lambda _: place)
        return set(found(script, S(f'"runs/a"{more}')))

    return look


@pytest.mark.parametrize(("kind", "id_"), [("tmpfs", "W401"), ("nfs4", "I402"), ("fuse.sshfs", "I402")])
def test_a_file_system_that_keeps_nothing_or_is_far_away(placed: Callable[..., set[str]], kind: str, id_: str) -> None:
    assert id_ in placed(filesystem=kind)
    assert {"W401", "I402"}.isdisjoint(placed(filesystem="ext4"))


def test_rights_of_others(script: Path) -> None:
    """With real directories: who may read a token, who may write, and who can't get there at all."""
    run = script.parent / "runs/a"
    run.mkdir(parents=True)
    closed = any(not parent.stat().st_mode & 0o001 for parent in run.resolve().parents)
    token = S('"runs/a", hub_token="hf_x"')
    findings = {}
    for mode in (0o750, 0o755, 0o777):
        run.chmod(mode)
        findings[mode] = set(found(script, token)) & {"I403", "W404"}
        assert "I403" not in found(script, S('"runs/a"')), "without a token there is nothing to hide"
    run.parent.chmod(0o700)
    findings[0o700] = set(found(script, token)) & {"I403", "W404"}
    run.parent.chmod(0o755)

    assert findings[0o750] == findings[0o700] == set()
    assert findings[0o755] == (set() if closed else {"I403"})
    assert findings[0o777] == (set() if closed else {"W404"})


@pytest.mark.parametrize("name", ["checkpoint-5/training_args.bin", "training_args.bin"])
def test_a_token_that_an_earlier_start_left(tmp_path: Path, name: str) -> None:
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"hub_token": "mine", "save_steps": 5}))
    path.parent.chmod(0o755)
    look = surroundings.look_at(tmp_path / "run")
    assert look.secret == (f"hub_token in {name}" if look.readable else "")
    path.write_bytes(pickle.dumps({"hub_token": None, "save_steps": 5}))
    assert surroundings.look_at(tmp_path / "run").secret == ""


def test_rights_where_everybody_gets_in(placed: Callable[..., set[str]]) -> None:
    assert "I403" in placed(readable=True, secret="hub_token in checkpoint-5/training_args.bin")
    assert "I403" not in placed(readable=True)
    assert "W404" in placed(readable=True, writable=True)
    assert {"I403", "W404"}.isdisjoint(placed())


# -- what the environment tells ------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["SLURM_JOB_ID", "KUBERNETES_SERVICE_HOST"])
def test_e503_a_grace_period_shorter_than_a_save(script: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    large = {"checkpoint_bytes": 100 * 10**9, "step_seconds": 1.0}
    assert "E503" not in found(script, S(""), **large), "no scheduler, no grace period"

    monkeypatch.setenv(name, "1")

    assert "E503" in found(script, S(""), **large)
    assert "E503" not in found(script, S(""), **large, grace=300.0)
    assert "E503" not in found(script, S(""), **large, bandwidth=10 * 10**9)
    assert "E503" not in found(script, S('save_strategy="no"'), **large)


def test_the_advice_is_the_interval_that_loses_the_least(script: Path) -> None:
    text = found(script, S("save_steps=10"), step_seconds=1.0, checkpoint_bytes=10**10, mtbf=3600.0)["W502"].fix
    assert "save_steps to about 2" in text, "Young: sqrt(2 * 10 s * 3600 s) = 268 s"


def test_options_reach_examine(script: Path) -> None:
    script.write_text(S("").text)
    (only,) = examine(script, Options(ignore=frozenset({"W201"})))
    assert "W201" not in {finding.id for finding in only.findings}
    assert only.ignored == ("W201",)


CLOCK = 'save_every="20m"'


@pytest.mark.parametrize(
    ("arguments", "options"),
    [
        ('save_strategy="no"', {}),
        ('save_strategy="epoch", num_train_epochs=1', {}),
        ("save_steps=500, max_steps=500", {}),
        ("save_steps=500", {"step_seconds": 60.0, "mtbf": 3600.0}),
        ('save_strategy="no"', {"step_seconds": 60.0, "mtbf": 3600.0, "steps": 500}),
    ],
)
def test_saves_by_the_clock_are_part_of_the_schedule(script: Path, arguments: str, options: dict[str, float]) -> None:
    scheduled = {"W301", "W302", "W501"}
    assert scheduled & found(script, S(arguments, attach=""), **options).keys(), "without the clock there is a finding"
    assert not scheduled & found(script, S(arguments, attach=CLOCK), **options).keys()


def test_a_clock_that_comes_too_late_or_too_often_is_found(script: Path) -> None:
    late = found(script, S('save_strategy="no"', attach='save_every="2h"'), mtbf=3600.0)
    assert late["W501"].what.startswith("a save every 2 h, a failure every 1 h")
    assert late["W501"].fix == 'Set save_every to "6 min" or less.'
    last = found(script, S("max_steps=100, save_steps=100", attach='save_every="2h"'), step_seconds=1.0)
    assert "W301" in last, "the end comes first"
    often = {"step_seconds": 1.0, "checkpoint_bytes": 60 * 10**9}
    assert "W502" in found(script, S("save_steps=500", attach='save_every="30s"'), **often)
    assert "W502" not in found(script, S("save_steps=500", attach=CLOCK), **often)


def test_a_clock_that_nobody_can_read_leaves_it_open(script: Path) -> None:
    told = found(script, S('save_strategy="no"', attach="save_every=args.every"))
    assert "W302" not in told
