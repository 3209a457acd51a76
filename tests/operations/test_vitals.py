"""The numbers of a run agree with what was done to it."""

from __future__ import annotations

from pathlib import Path

from keepstep import layout
from keepstep.operations import checking
from keepstep.operations.seeing.vitals import BOUNDS, Distribution, Tally, VitalsReader
from keepstep.run import Run
from tests.operations.runs import make_run, training


def test_saves_removals_and_bytes_add_up(tmp_path: Path) -> None:
    run = make_run(tmp_path, {1: 1.0, 2: 1.5, 3: 1.7, 4: 1.8}, keep="best:1,latest:1")
    vitals = VitalsReader(run).read()
    tally = vitals.tally
    assert tally.commits == 4
    assert (tally.gone["removed"], tally.gone["thinned"]) == (2, 1)
    assert tally.committed_bytes - tally.freed_bytes == vitals.size_bytes
    assert sum(tally.blocked.counts) == sum(tally.durable.counts) == 4
    assert vitals.latest is not None and vitals.latest.step == 4
    assert (vitals.best_value, vitals.metric) == (1.0, "eval_loss")
    assert vitals.in_use is False


def test_a_reader_reads_only_what_was_added(tmp_path: Path) -> None:
    run = make_run(tmp_path, {1: 1.0})
    reader = VitalsReader(run)
    assert reader.read().tally.commits == 1
    assert reader.read().tally.commits == 1
    with training(tmp_path) as checkpointer:
        assert reader.read().in_use
        assert checkpointer.run.id == run.id
    make_run(tmp_path, {2: 1.0, 3: 1.0})
    assert reader.read().tally.commits == 3


def test_a_log_that_begins_anew_is_counted_anew(tmp_path: Path) -> None:
    reader = VitalsReader(make_run(tmp_path, {1: 1.0, 2: 1.0}))
    reader.read()
    log = tmp_path / layout.EVENTS
    lines = log.read_text().splitlines()
    log.write_text("\n".join(line for line in lines if '"step":2' in line) + "\n")
    assert reader.read().tally.commits == 1


def test_verifications_are_counted_and_dated(tmp_path: Path) -> None:
    make_run(tmp_path, {1: 1.0, 2: 2.0})
    run = Run.open(tmp_path)
    assert VitalsReader(run).read().latest_verified is None
    _check(run)
    found = VitalsReader(run).read()
    assert found.tally.verifications == {"ok": 2}
    assert found.latest_verified is not None
    (tmp_path / "checkpoint-2" / "optimizer.pt").write_bytes(b"x" * 100)
    _check(run)
    found = VitalsReader(run).read()
    assert found.tally.verifications == {"ok": 3, "damaged": 1}
    assert found.damaged == 1


def _check(run: Run) -> None:
    checking.check(run, checking.candidates(run))


def test_odd_events_are_passed_over() -> None:
    tally = Tally()
    for event in (
        {"event": "committed", "size_bytes": "many", "time": "yesterday"},
        {"event": "kept", "blocked_seconds": None, "durable_seconds": "2"},
        {"event": "verified", "ok": True, "generation": "x"},
        {"event": "unheard-of"},
    ):
        tally.take(event)
    assert (tally.commits, tally.committed_bytes, tally.last_commit) == (1, 0, None)
    assert tally.blocked.last is None


def test_a_duration_at_a_bound_belongs_to_its_class() -> None:
    distribution = Distribution()
    for seconds in (BOUNDS[0], BOUNDS[0] + 1e-9, BOUNDS[-1] + 1):
        distribution.add(seconds)
    assert (distribution.counts[0], distribution.counts[1], distribution.counts[-1]) == (1, 1, 1)
