"""What an earlier start left in its checkpoints: the arguments of a directory, and of a script beside it."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import pytest

from keepstep.errors import RunNotFound
from keepstep.operations.doctor import Report, examine_together
from tests.stock.written import run_of

SCRIPT = """\
from transformers import HfArgumentParser, Trainer, TrainingArguments
(args,) = HfArgumentParser(TrainingArguments).parse_args_into_dataclasses()
Trainer(args=args).train(resume_from_checkpoint=args.resume_from_checkpoint)
"""


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def _stored(directory: str, module: str = "transformers.training_args", **values: Any) -> Path:
    """A `training_args.bin` as a pickle of an object of a class that is not imported."""
    path = Path(directory) / "training_args.bin"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = pickle.dumps(values, protocol=2)[2:-1]
    path.write_bytes(b"\x80\x02c" + module.encode() + b"\nTrainingArguments\n)\x81" + state + b"b.")
    return path


def _report(*targets: str, arguments: list[str] | None = None) -> Report:
    return examine_together([Path(target) for target in targets], arguments=arguments)[0]


def test_a_directory_of_the_stock_trainer_is_judged_by_its_arguments() -> None:
    _stored("out/checkpoint-5", save_total_limit=3)
    newest = _stored("out/checkpoint-10", save_total_limit=1, load_best_model_at_end=True, eval_strategy="steps")
    report = _report("out")
    assert report.kind == "stock"
    found = {finding.id: finding for finding in report.findings}
    assert "W203" in found
    assert str(found["W203"].where) == str(newest)
    assert {used.source for used in report.settings} == {"file"}


def test_a_token_in_it_is_found_and_not_shown() -> None:
    _stored("out/checkpoint-5", hub_token="hf_" + "c" * 30, save_total_limit=2)
    report = _report("out")
    assert "E406" in {finding.id for finding in report.findings}
    assert "hf_c" not in json.dumps(report.to_json())


def test_a_directory_without_arguments_is_judged_by_its_checkpoints() -> None:
    Path("out/checkpoint-5").mkdir(parents=True)
    Path("out/checkpoint-5/training_args.bin").write_bytes(b"no pickle")
    report = _report("out")
    assert report.kind == "run"
    assert "W703" in {finding.id for finding in report.findings}


def test_what_is_torn_in_a_stock_run_is_told_in_words_that_are_true_there() -> None:
    for steps, name in (([2, 4, 6], "newest"), ([2, 4], "older"), ([2], "alone")):
        run_of(Path(name), steps)
    for torn in ("newest/checkpoint-6", "older/checkpoint-2", "alone/checkpoint-2"):
        Path(torn, "trainer_state.json").unlink()
    found = {name: {f.id: f for f in _report(name).findings} for name in ("newest", "older", "alone")}
    told = [found["newest"]["E702"], found["older"]["W703"], found["alone"]["E701"]]
    assert [finding.title for finding in told[:2]] == ["the newest checkpoint is torn", "torn checkpoints"]
    assert found["newest"].keys().isdisjoint({"E701", "W703"}) and "E702" not in found["older"]
    for finding, step in zip(told, (6, 2, 2), strict=True):
        assert f"step {step} (torn: trainer_state.json is missing" in finding.what
        text = json.dumps(finding.to_json())
        assert "copy" in text
        assert not [word for word in ("quarantine", "bytes", "verify", "failed its", "restore") if word in text]
    assert "highest step" in told[0].why and "save_total_limit" in told[1].why


def test_a_directory_without_checkpoints_is_no_run() -> None:
    Path("out").mkdir()
    with pytest.raises(RunNotFound):
        _report("out")


def test_a_script_is_told_what_an_earlier_start_had() -> None:
    Path("train.py").write_text(SCRIPT)
    path = _stored("out/checkpoint-5", output_dir="out", save_steps=500, eval_steps=300, eval_strategy="steps",
                   load_best_model_at_end=True, save_total_limit=2)  # fmt: skip
    assert not _report("train.py").findings
    report = _report("train.py", "out")
    assert "E103" in {finding.id for finding in report.findings}
    assert report.command == str(path)
    assert not report.unread


def test_what_the_script_says_itself_and_what_is_typed_win() -> None:
    Path("train.py").write_text(SCRIPT.replace("Trainer(args=args)", "args.save_steps = 7\nTrainer(args=args)"))
    _stored("out/checkpoint-5", save_steps=500, save_total_limit=2)
    told = {used.name: used.value for used in _report("train.py", "out").settings}
    assert (told["save_steps"], told["save_total_limit"]) == (7, 2)
    typed = {
        used.name: used.value for used in _report("train.py", "out", arguments=["--save_total_limit", "4"]).settings
    }
    assert typed == {"save_steps": 7, "save_total_limit": 4}


@pytest.mark.parametrize(("greater", "speaks"), [(True, True), (False, False)])
def test_a_direction_that_transformers_guessed_is_nobodys_word(greater: bool, *, speaks: bool) -> None:
    _stored("out/checkpoint-5", metric_for_best_model="wer", greater_is_better=greater, eval_strategy="steps")
    assert ("W107" in {finding.id for finding in _report("out").findings}) is speaks


# -- axolotl's own names and defaults --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "known"),
    [
        ("", {"save_total_limit": 4, "save_strategy": "epoch", "eval_strategy": "no", "output_dir": "./model-out"}),
        ("save_steps: 50\nsave_total_limit: 2", {"save_strategy": "steps", "save_steps": 50, "save_total_limit": 2}),
        ("saves_per_epoch: 2\nnum_epochs: 5", {"save_strategy": "steps", "save_steps": 0.1}),
        ("val_set_size: 0.1\nevals_per_epoch: 4\nnum_epochs: 1", {"eval_strategy": "steps", "eval_steps": 0.25}),
        ("val_set_size: 0.1\neval_strategy: epoch", {"eval_strategy": "epoch"}),
        ("val_set_size: 0\neval_steps: 5", {"eval_strategy": "no"}),
        ("load_best_model_at_end: false", {"load_best_model_at_end": False}),
    ],
)
def test_axolotl_has_names_and_defaults_of_its_own(lines: str, known: dict[str, object]) -> None:
    Path("a.yml").write_text(f"base_model: m\nmicro_batch_size: 1\n{lines}\n")
    settings = {used.name: used.value for used in _report("a.yml").settings}
    assert {name: settings[name] for name in known} == known


def test_axolotl_decides_itself_whether_the_best_is_loaded() -> None:
    Path("a.yml").write_text("base_model: m\ndatasets: []\nval_set_size: 0.1\nsave_steps: 5\neval_steps: 3\n")
    report = _report("a.yml")
    assert "E103" not in {finding.id for finding in report.findings}
    assert "W201" not in {finding.id for finding in report.findings}
    assert "load_best_model_at_end=as axolotl decides" in report.unread
