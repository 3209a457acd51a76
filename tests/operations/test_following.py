"""Tests of following a run's events."""

from __future__ import annotations

from pathlib import Path

from keepstep.operations.seeing.following import follow
from tests.operations.runs import make_run


def test_what_is_there_then_what_comes_then_a_new_log(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1})
    log = tmp_path / "run" / ".keepstep" / "events.jsonl"
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 1:
            run.events.append("pinned", step=1)
        elif len(waits) == 3:
            log.unlink()
        elif len(waits) == 4:
            run.events.append("tagged", step=1)

    found = follow(run, wait=wait)
    seen = [next(found)["event"] for _ in range(5)]

    assert seen == ["run", "committed", "kept", "pinned", "tagged"]
    assert len(waits) == 4


def test_a_torn_line_is_taken_when_it_is_whole(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1})
    log = tmp_path / "run" / ".keepstep" / "events.jsonl"
    with log.open("a") as file:
        file.write('{"event": "half"')

    def wait(seconds: float) -> None:
        with log.open("a") as file:
            file.write("}\n")

    found = follow(run, wait=wait)
    assert [next(found)["event"] for _ in range(4)] == ["run", "committed", "kept", "half"]
