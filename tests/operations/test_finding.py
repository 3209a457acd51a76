"""Tests of the search for runs below a directory."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keepstep.operations.seeing import finding
from keepstep.operations.seeing.finding import NoDirectory, find_runs, search
from tests.operations.runs import make_run


def _mark(path: Path) -> Path:
    """A directory that is a run as far as a search goes."""
    (path / ".keepstep").mkdir(parents=True)
    (path / ".keepstep" / "run.json").write_text("{}")
    return path


def test_runs_lie_anywhere_below(tmp_path: Path) -> None:
    real = make_run(tmp_path / "b" / "sft", {1: 0.1}).path
    others = [_mark(tmp_path / "a"), _mark(tmp_path / "b" / "sft" / "then" / "dpo")]

    assert find_runs(tmp_path) == sorted([real, *others])


def test_the_root_itself_is_a_run(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {1: 0.1}).path
    assert find_runs(run) == [run]


def test_checkpoints_hidden_directories_and_links_are_not_entered(tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "a", {1: 0.1}).path
    _mark(run / "checkpoint-1" / "copy")
    _mark(run / ".keepstep" / "previous" / "old")
    elsewhere = _mark(tmp_path / "elsewhere")
    (tmp_path / "runs" / "link").symlink_to(elsewhere)

    assert find_runs(tmp_path / "runs") == [run]
    assert find_runs(tmp_path / "runs" / "link") == [tmp_path / "runs" / "link"]


def test_links_in_circles_end(tmp_path: Path) -> None:
    run = _mark(tmp_path / "a")
    (run / "again").symlink_to(tmp_path)
    assert find_runs(tmp_path) == [run]


def test_it_goes_so_deep_and_no_deeper(tmp_path: Path) -> None:
    deep = tmp_path.joinpath(*map(str, range(finding.DEPTH)))
    run = _mark(deep)
    _mark(deep / "deeper")

    assert find_runs(tmp_path) == [run]
    assert find_runs(tmp_path, depth=finding.DEPTH + 1) == [run, deep / "deeper"]


def test_checkpoints_without_a_run_are_told_apart(tmp_path: Path) -> None:
    stock = tmp_path / "stock"
    (stock / "checkpoint-10").mkdir(parents=True)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "checkpoint-5").write_text("a file")

    found = search(tmp_path)

    assert (found.runs, found.stock) == ((), (stock,))


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
def test_what_can_not_be_read_is_said(tmp_path: Path) -> None:
    run, closed = _mark(tmp_path / "a"), tmp_path / "closed"
    closed.mkdir(mode=0o000)
    try:
        found = search(tmp_path)
    finally:
        closed.chmod(0o700)

    assert found.runs == (run,)
    assert [(item.path, item.reason) for item in found.unreadable] == [(closed, "Permission denied")]


def test_a_directory_that_vanishes_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, gone = _mark(tmp_path / "a"), tmp_path / "gone"
    gone.mkdir()
    listed = os.scandir

    def vanishing(place: str) -> object:
        if Path(place) == gone:
            gone.rmdir()
        return listed(place)

    monkeypatch.setattr(os, "scandir", vanishing)
    found = search(tmp_path)

    assert found.runs == (run,)
    assert [item.path for item in found.unreadable] == [gone]


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_directory_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NoDirectory, match="is no directory"):
        find_runs(tmp_path / name)
