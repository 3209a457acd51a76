"""The demonstration's parts: its proof can fail, its options are checked, its assets are small and complete."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep import Checkpointer, Facts, Policy
from keepstep.demo.command import ASSETS, demo
from keepstep.demo.proof import COMPARED, compare
from keepstep.demo.recipe import EMBEDDED, for_model
from keepstep.errors import SettingsError
from keepstep.run import Run


def _run(path: Path, *, weights: bytes = b"same", loss: float = 0.5, runtime: float = 1.0) -> Run:
    def write(directory: Path) -> None:
        for name in COMPARED:
            (directory / name).write_bytes(weights if name == "adapter_model.safetensors" else b"state")
        log = [{"step": 4, "loss": loss, "eval_runtime": runtime}]
        (directory / "trainer_state.json").write_text(json.dumps({"log_history": log}), encoding="utf-8")

    checkpointer = Checkpointer(path, Policy.from_spec("latest:1"))
    checkpointer.begin(None)
    checkpointer.save(Facts(step=4), write)
    checkpointer.close()
    return Run.open(path)


def test_equal_runs_are_the_same_whatever_the_clock_said(tmp_path: Path) -> None:
    results = compare(_run(tmp_path / "a", runtime=1.0), _run(tmp_path / "b", runtime=2.0))
    assert all(result.same for result in results)
    assert {result.what for result in results} == {"last step", "log history", *COMPARED.values()}


@pytest.mark.parametrize(("change", "what"), [({"weights": b"other"}, "weights"), ({"loss": 0.6}, "log history")])
def test_the_proof_can_fail(tmp_path: Path, change: dict[str, object], what: str) -> None:
    results = compare(_run(tmp_path / "a"), _run(tmp_path / "b", **change))  # type: ignore[arg-type]
    assert [result.what for result in results if not result.same] == [what]


@pytest.mark.parametrize("options", [["--model", "somewhere"], ["--data", __file__]])
def test_model_and_data_go_together(options: list[str]) -> None:
    result = CliRunner().invoke(demo, options)
    assert isinstance(result.exception, SettingsError)


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.demo.command.find_spec", lambda name: None)
    error = CliRunner().invoke(demo, []).exception
    assert isinstance(error, SettingsError)
    assert error.message == "the demonstration needs torch, transformers, trl, peft, datasets"
    assert 'pip install "keepstep[demo]"' in error.hint


def test_a_model_that_is_not_there_is_named_before_anything_starts(tmp_path: Path) -> None:
    result = CliRunner().invoke(demo, ["--model", str(tmp_path / "missing"), "--data", __file__])
    assert isinstance(result.exception, SettingsError)
    assert "missing is no directory" in str(result.exception)


def test_a_directory_with_something_in_it_is_not_used(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("precious")
    result = CliRunner().invoke(demo, ["--keep", str(tmp_path)])
    assert isinstance(result.exception, SettingsError)
    assert (tmp_path / "mine").read_text() == "precious"


def test_the_embedded_assets_are_whole_and_small() -> None:
    files = [path for path in ASSETS.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 8_000_000
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in (ASSETS / "model").iterdir()
    }
    assert len((ASSETS / "finetune.txt").read_text(encoding="utf-8")) > 30_000


def test_larger_models_take_smaller_steps() -> None:
    rates = [for_model(10**power).learning_rate for power in (6, 7, 8, 9)]
    assert rates == sorted(rates, reverse=True)
    assert EMBEDDED.steps % EMBEDDED.eval_every_steps == 0
