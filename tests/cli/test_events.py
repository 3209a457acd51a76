"""Tests of `keepstep events`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from msgspec.structs import replace

from keepstep.operations.export.choosing import note_exported
from keepstep.run import Run
from tests.cli.conftest import Call
from tests.operations.runs import flip, make_run
from tests.operations.test_receipts import EQUAL, LEFT, resume


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return make_run(tmp_path / "run", {1: 0.5, 2: 0.25}, keep="latest:1")


def test_what_happened_in_words(run: Run, call: Call) -> None:
    run.record_metrics(2, {"eval_f1": 0.75})
    flip(run.path / "checkpoint-2" / "optimizer.pt")
    call("verify", run.path, "--quarantine")

    shown = " ".join(call("events", run.path).stdout.split())

    for part in (
        "keeps latest:1, ranked by eval_loss (min)",
        "step 1 1.0 kB, eval_loss 0.5",
        "step 1 1.0 kB freed: not the newest",
        "generation 2: eval_f1 0.75",
        "damaged: optimizer.pt has other bytes",
        "moved to .keepstep/quarantine/",
    ):
        assert part in shown, part


def test_an_export_is_told_by_its_kind_and_place(run: Run, call: Call) -> None:
    (member,) = run.checkpoints
    other = replace(member, step=16)
    note_exported(run, (member,), Path("/exports/one"), "adapter")
    note_exported(run, (member, other), Path("/exports/two"), "model")

    shown = [" ".join(line.split()[3:]) for line in call("events", run.path, "--limit", "2").stdout.splitlines()]

    assert shown == [
        "exported step 2 as an adapter to /exports/one",
        "exported step 2 average of steps 2, 16 as a model to /exports/two",
    ]


def test_a_resume_and_its_course_in_words(run: Run, call: Call) -> None:
    resume(run, 2, EQUAL, compared="all of it equals what was saved")
    resume(run, 2, LEFT)
    resume(run, 2)

    shown = [" ".join(line.split()[3:]) for line in call("events", run.path, "--limit", "5").stdout.splitlines()]

    path = run.path / "checkpoint-2"
    assert shown == [
        f"resumed step 2 exact, compared, every byte verified, from {path}; compared: all of it equals what was saved",
        "course step 2 exact, proved: steps 3 to 4 came out bit-equal to what the interrupted attempt had logged",
        f"resumed step 2 exact, inferred, every byte verified, from {path}",
        f"course step 2 approximate: {LEFT}",
        f"resumed step 2 exact, inferred, every byte verified, from {path}",
    ]


def test_json_lines_are_the_log(run: Run, call: Call) -> None:
    lines = call("events", run.path, "--format", "json").stdout.splitlines()
    assert [json.loads(line) for line in lines] == list(run.events.read())


@pytest.mark.parametrize(("limit", "count"), [(0, 0), (2, 2), (99, 6)])
def test_limit_gives_the_last(run: Run, call: Call, limit: int, count: int) -> None:
    lines = call("events", run.path, "--limit", limit, "--format", "json").stdout.splitlines()
    happened = ["run", "committed", "kept", "committed", "removed", "kept"]
    assert [json.loads(line)["event"] for line in lines] == happened[6 - count :]


def test_follow_prints_what_comes_until_interrupted(run: Run, call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) > 1:
            raise KeyboardInterrupt
        run.events.append("pinned", step=2, generation=2)

    monkeypatch.setattr("keepstep.operations.seeing.following.follow.__kwdefaults__", {"wait": sleep})
    result = call("events", run.path, "--follow", "--limit", "1", "--format", "json")

    assert [json.loads(line)["event"] for line in result.stdout.splitlines()] == ["kept", "pinned"]
    assert result.exit_code == 130
    assert "keepstep: interrupted" in result.stderr


def test_events_of_any_shape_are_printed(run: Run, call: Call) -> None:
    with (run.path / ".keepstep" / "events.jsonl").open("a") as file:
        file.write('{"event": "committed"}\n{"event": "removed", "size_bytes": "x", "time": 3}\n')
        file.write('{"event": "later", "what": {"a": 1}}\nnot json\n[]\n')

    result = call("events", run.path)

    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) == 9
    assert "what a 1" in result.stdout
