"""`keepstep demo --mirror`, in short: a machine is lost, an empty one goes on from the mirror, and nothing differs."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from keepstep.cli.main import main
from keepstep.demo import second_home as homes
from keepstep.demo import stage
from keepstep.demo.command import ASSETS
from keepstep.demo.recipe import BRIEF
from keepstep.demo.second_home import second_home
from keepstep.demo.stage import Stage
from keepstep.mirror import open_mirror
from keepstep.run import Run


@pytest.mark.long
@pytest.mark.training
def test_the_machine_is_lost_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    short = replace(BRIEF, rows=32, eval_rows=8, tokens_per_row=32, epochs=2, eval_every_steps=2)
    monkeypatch.setattr(stage, "BRIEF", short)
    monkeypatch.setattr(homes, "find_spec", lambda name: None)
    with second_home(tmp_path / "mirror") as home:
        model, text = str(ASSETS / "model"), ASSETS / "finetune.txt"
        assert Stage(tmp_path, model, text, embedded=True, mirror=home).play()
        mirror = open_mirror(home.address)
        steps = [record.checkpoint.step for record in mirror.records()]
    out = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "a directory that stands for an object store" in out and "moto, flask, obstore is missing" in out
    assert "The machine is lost" in out and "Bit for bit the same." in out and "DIFFERENT" not in out
    assert "brought here from the mirror" in out and "every byte compared" in out
    run = Run.open(tmp_path / "interrupted")
    (resumed,) = [event for event in run.events.read() if event["event"] == "resumed"]
    assert resumed["brought"]["origin"] == mirror.url and resumed["brought"]["step"] == resumed["step"] < 4
    assert short.steps in steps and [c.step for c in run.checkpoints][-1] == short.steps


def test_the_server_of_the_demonstration_is_a_real_one_and_leaves_no_trace(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")  # the user's own
    monkeypatch.setenv("AWS_SESSION_TOKEN", "theirs")
    before = dict(os.environ)
    with second_home(tmp_path / "mirror") as home:
        assert home.address == "s3://demo/run" and "S3 server (moto) at http://127.0.0.1:" in home.what
        assert "AWS_SESSION_TOKEN" not in os.environ
        objects = open_mirror(home.address).objects
        assert objects.create("one", b"bytes") and objects.read("one", limit=10) == b"bytes"
    assert dict(os.environ) == before and not (tmp_path / "mirror").exists()


def test_a_server_that_does_not_start_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(homes, "_answers", lambda server, port: False)
    with second_home(tmp_path / "mirror") as home:
        assert home.address == str(tmp_path / "mirror") and "moto did not start" in home.what


def test_it_goes_with_no_script() -> None:
    done = CliRunner().invoke(main, ["demo", "--mirror", "--script", "hooks"])
    assert done.exit_code == 2 and "--script prints a program and runs nothing" in str(done.output)
