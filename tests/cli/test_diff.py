"""Tests of `keepstep diff`."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from tests.cli.conftest import Call
from tests.operations.test_comparing import W, make


def test_a_table_with_the_largest_change_first(tmp_path: Path, call: Call) -> None:
    many = {f"layer.{number}": W for number in range(25)}
    run = make(tmp_path / "run", {100: many, 200: {**many, "layer.3": W + 1, "layer.4": W + 2}})

    shown = call("diff", run.path, "100", "best", env={"COLUMNS": "200"})

    lines = shown.stdout.splitlines()
    assert str(run.path / "checkpoint-100") in lines[0]
    assert any(line.split() == ["metric:", "eval_loss", "0.01", "0.005"] for line in lines)
    assert "25 of 25 tensors compared, 23 of them unchanged" in shown.stdout
    place = next(number for number, line in enumerate(lines) if line.startswith("Tensor"))
    assert [line.split()[0] for line in lines[place + 1 : place + 3]] == ["layer.4", "layer.3"]
    assert "and 5 tensors more: --limit 25" in shown.stdout
    assert "layer.9 " in call("diff", run.path, "100", "best", "--limit", "25").stdout


def test_programs_have_all_of_it(tmp_path: Path, call: Call) -> None:
    run = make(tmp_path / "run", {100: {"a": W}, 200: {"a": W.to(torch.float16)}})

    plain = json.loads(call("diff", run.path, "100", "200", "--format", "json").stdout)

    assert (plain["before"]["step"], plain["after"]["generation"]) == (100, 2)
    assert plain["tensors"][0]["dtype"] == ["F32", "F16"]
    assert {"what": "data: digest", "before": "d0", "after": "d1"} in plain["differences"]
    lines = call("diff", run.path, "100", "200", "--format", "agent").stdout.splitlines()
    assert lines[0].startswith("name\trelative_change") and lines[1].startswith("a\t")


def test_what_cannot_be_read_is_said_beside_the_data(tmp_path: Path, call: Call) -> None:
    run = make(tmp_path / "run", {100: {"a": W}, 200: {"a": W}})
    (run.path / "checkpoint-200" / "model.safetensors").write_bytes(b"torn")

    shown = call("diff", run.path, "100", "200")

    assert shown.exit_code == 0
    assert "model.safetensors: it is no safetensors file" in shown.stderr
    assert "only before" in shown.stdout
    assert call("diff", run.path, "100", "300").exit_code == 3
    assert call("diff", run.path).exit_code == 2
