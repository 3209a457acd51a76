"""Tests of many runs at once: rows without a look into every file, sizes that are remembered, and what is not."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound
from keepstep.operations.many import Survey
from keepstep.operations.remembering import Known, Memory, Size
from keepstep.operations.usage import usage_of_tree
from keepstep.operations.usage.sizes import Sizes
from keepstep.run import StockRun
from keepstep.stock import glance
from tests.operations.runs import make_run
from tests.stock.written import checkpoint, log_to, run_of, state_file

OLD = 1_700_000_000


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path / "cache"


def _sizes(home: Path, run: Path) -> dict[str, int]:
    return {name: size.files for name, size in Sizes(Memory(home)).of(run).items()}


def _measured(run: Path) -> dict[str, int]:
    return {
        place.name: sum(file.stat().st_size for file in place.rglob("*") if file.is_file())
        for place in run.glob("checkpoint-*")
    }


def test_rows_say_what_a_look_at_the_run_itself_says(tmp_path: Path) -> None:
    stock, managed = run_of(tmp_path / "stock", [2, 4, 6]), make_run(tmp_path / "managed", {1: 0.5, 2: 0.25}).path
    survey, opened = Survey(Memory(None)), StockRun.open(stock)

    row, best = survey.row(stock), survey.best(stock)

    assert (row.checkpoints, row.step, row.metric) == (3, 6, opened.policy.metric)
    assert row.size_bytes == sum(_measured(stock).values())
    assert opened.best is not None
    assert (best.checkpoint.step, best.value) == (opened.best.step, opened.best.metrics["eval_loss"])
    assert (best.resumable.yes, best.resumable.by) == (True, "names")
    assert survey.row(managed).state == "stopped"
    assert (survey.best(managed).value, survey.best(managed).resumable.by) == (0.25, "manifest")


def test_the_newest_that_lacks_something_can_not_be_resumed_from(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [2, 4])
    (run / "checkpoint-4" / "optimizer.pt").unlink()
    os.utime(run / "checkpoint-4", (OLD + 60, OLD + 60))
    assert Survey(Memory(None)).best(run).resumable.why == "checkpoint-4 lacks optimizer.pt"


def test_a_torn_newest_leaves_the_log_of_the_one_before(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [2, 4, 6])
    (run / "checkpoint-6" / "trainer_state.json").write_text('{"global_st')
    best = Survey(Memory(None)).best(run)
    assert (best.checkpoint.step, best.resumable.yes) == (4, True)


def test_a_run_without_values_has_no_best(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [2], log=[])
    with pytest.raises(CheckpointNotFound, match="no metric"):
        Survey(Memory(None)).best(run)


def test_values_that_json_lacks_are_read_all_the_same(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [2, 4])
    log = [*log_to(4), {"step": 3, "eval_loss": float("nan")}, {"step": 3, "note": "text"}]
    state_file(run / "checkpoint-4" / "trainer_state.json", 4, log)
    assert Survey(Memory(None)).best(run).value == log_to(4)[-1]["eval_loss"]


def test_an_earlier_start_does_not_pass_for_the_newest(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [6, 8])
    for number, step in enumerate((2, 4)):
        checkpoint(run, step, log=log_to(step, offset=1.0), at=OLD + 1000 + 60 * number)
    found = glance(run)
    assert found is not None
    assert found.latest.step == StockRun.open(run).checkpoints[-1].step == 4
    assert {c.step: c.metrics for c in found.checkpoints} == {
        c.step: {"eval_loss": c.metrics["eval_loss"]} for c in StockRun.open(run).checkpoints
    }


def test_sizes_are_remembered_for_as_long_as_the_directory_is_the_same(tmp_path: Path, home: Path) -> None:
    run = run_of(tmp_path / "run", [2, 4])
    truth = _measured(run)
    assert _sizes(home, run) == truth
    known = Memory(home).recall(run)
    assert {name: size.files for name, size in known.sizes.items()} == truth

    Memory(home).keep(run, Known({name: Size(s.mtime_ns, 7, 0, 0) for name, s in known.sizes.items()}))
    assert set(_sizes(home, run).values()) == {7}
    (run / "checkpoint-4" / "more.bin").write_bytes(b"x" * 50)
    assert _sizes(home, run)["checkpoint-4"] == truth["checkpoint-4"] + 50
    assert {n: s.files for n, s in Sizes(Memory(home), afresh=True).of(run).items()}["checkpoint-2"] == truth[
        "checkpoint-2"
    ]


def test_what_may_grow_is_never_remembered(tmp_path: Path, home: Path) -> None:
    run = tmp_path / "run"
    checkpoint(run, 2)  # young
    checkpoint(run, 4, at=OLD)
    (run / "checkpoint-4" / "trainer_state.json").unlink()  # not at its end
    checkpoint(run, 6, "deepspeed", at=OLD)  # what changes in a directory of its own does not show
    checkpoint(run, 8, at=OLD)
    os.link(run / "checkpoint-8" / "config.json", tmp_path / "link")
    for step in (4, 6, 8):
        os.utime(run / f"checkpoint-{step}", (OLD, OLD))

    assert _sizes(home, run) == _measured(run)
    assert not Memory(home).recall(run).sizes


@pytest.mark.parametrize("data", [b"", b"\x00" * 40, b"\x93", b"no cache"])
def test_a_torn_or_foreign_file_says_nothing(tmp_path: Path, home: Path, data: bytes) -> None:
    run = run_of(tmp_path / "run", [2, 4])
    _sizes(home, run)
    for file in home.iterdir():
        file.write_bytes(data)
    assert _sizes(home, run) == _measured(run)
    assert Memory(home).recall(run).sizes


def test_a_file_of_another_directory_says_nothing(tmp_path: Path, home: Path) -> None:
    one, two = run_of(tmp_path / "one", [2]), run_of(tmp_path / "two", [2, 4])
    _sizes(home, one)
    (kept,) = home.iterdir()
    data = kept.read_bytes()
    kept.unlink()
    _sizes(home, two)
    (other,) = home.iterdir()
    other.write_bytes(data)
    assert Memory(home).recall(two) == Known()


def test_the_cache_stays_small_and_can_be_turned_off(
    tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("keepstep.operations.remembering.LARGEST", 1500)
    memory = Memory(home)
    for number in range(20):
        memory.keep(tmp_path / str(number), Known({f"checkpoint-{n}": Size(n, n, n, n) for n in range(5)}))
    memory.trim()
    assert 0 < sum(file.stat().st_size for file in home.iterdir()) <= 750

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("KEEPSTEP_NO_CACHE", "1")
    Memory.of_user().keep(tmp_path, Known())
    assert not (tmp_path / "xdg").exists()
    monkeypatch.setenv("KEEPSTEP_NO_CACHE", "0")
    Memory.of_user().keep(tmp_path, Known())
    assert (tmp_path / "xdg" / "keepstep").is_dir()


def test_a_cache_that_can_not_be_written_is_none(tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("a file")
    run = run_of(tmp_path / "run", [2])
    assert _sizes(tmp_path / "cache", run) == _measured(run)


def test_usage_of_a_tree_is_the_same_with_and_without_memory(tmp_path: Path, home: Path) -> None:
    for name in ("a", "b"):
        run_of(tmp_path / "runs" / name, [2, 4])
    (tmp_path / "runs" / "a" / "notes.txt").write_text("notes")
    plain = usage_of_tree([tmp_path / "runs"])
    first, second = (usage_of_tree([tmp_path / "runs"], memory=Memory(home)) for _ in range(2))
    assert plain == first == second


def test_one_stock_run_is_shown_checkpoint_by_checkpoint(tmp_path: Path) -> None:
    run = run_of(tmp_path / "run", [2, 4])
    (run / "notes.txt").write_text("notes")
    (stock,) = usage_of_tree([run]).stock
    assert stock.detail is not None
    assert [share.checkpoint.step for share in stock.detail.shares] == [2, 4]
    assert (stock.detail.kinds.total, stock.detail.records_bytes) == (stock.size_bytes, 5)
    assert {share.thin_bytes for share in stock.detail.shares} == {0}
