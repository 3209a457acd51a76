"""Ratios, verdicts and tables from results that were never measured."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from benchmarks.saves import machine
from benchmarks.saves.campaign import turned
from benchmarks.saves.estimator import Cost, Spread
from benchmarks.saves.report import against, render, write_report
from benchmarks.saves.results import Results
from benchmarks.saves.simulation import Course, Rates, simulate
from benchmarks.saves.spec import Leg
from benchmarks.saves.tables import SaveRow, limit_rows, resume_rows, save_rows
from benchmarks.saves.targets import TARGETS, Measured

from tests.benchmarks.records import quiet, record

LEG = Leg("gpt2", ("none", "keepstep", "stock", "moonclip", "orbax"), rounds=1)
STATE = 1_000_000


@pytest.fixture
def results(tmp_path: Path) -> Results:
    made = Results(tmp_path / "results.json", machine.describe(tmp_path))
    made.begin(LEG)
    slow, slower = quiet(12), quiet(12)
    slow[5] += 2.0
    slower[5] += 4.0
    ours = quiet(12)
    ours[5] += 0.1
    made.add(LEG, "course", "none", 0, record(quiet(12), [(5, 0.0, 0.0)], peak=10_000_000))
    made.add(LEG, "course", "keepstep", 0, record(ours, [(5, 0.002, 0.6)], peak=11_000_000))
    made.add(LEG, "course", "stock", 0, record(slow, [(5, 2.0, 2.4)], peak=10_100_000))
    made.add(LEG, "course", "moonclip", 0, record(slower, [(5, 0.3, 3.0)], peak=12_000_000))
    made.add(LEG, "course", "orbax", 0, {"refused": "TypeError: no such dtype"})
    made.add(LEG, "limits", "", 0, {"bytes": STATE, "seconds": {"O_DIRECT write and fsync": 0.4, "memcpy": 0.1}})
    for way, cold in (("keepstep", 0.5), ("stock", 1.0)):
        times = {"cold": cold, "warm": cold / 2, "fresh": 0.0, "cached_after_dropping": 0.0}
        made.add(LEG, "resume", way, 0, times)
    return made


def measured(results: Results) -> Measured:
    saves = {row.method: row for row in save_rows(results, LEG)}
    resumes = {row.way: row for row in resume_rows(results, LEG)}
    return Measured(saves, resumes, limit_rows(results, LEG), STATE)


def test_ratios_are_of_medians_and_have_verdicts(results: Results) -> None:
    what = measured(results)
    found = {
        target.what: (None if (figure := target.figure(what)) is None else figure.value, target.verdict(what))
        for target in TARGETS
    }
    assert found["blocked per save"] == (pytest.approx(0.002), "aim reached")
    assert found["true inflation / HF Trainer"] == (pytest.approx(0.05), "passed")
    assert found["true inflation / Moonclip"] == (pytest.approx(0.025), "aim reached")
    assert found["time until durable / O_DIRECT floor"] == (pytest.approx(1.5), "passed")
    assert found["peak extra host memory / state"] == (pytest.approx(1.0), "aim reached")
    cold = found["cold verified resume / torch.load and safetensors, cold, unverified"]
    assert cold == (pytest.approx(0.5), "aim reached")
    assert found["blocked per save / DCP async, thread"] == (None, "not measured")


def test_a_threshold_within_the_noise_is_neither_passed_nor_failed() -> None:
    target = next(each for each in TARGETS if each.what == "time until durable / O_DIRECT floor")
    (row,) = [SaveRow("keepstep", "ours", costs=[cost(durable=durable) for durable in (0.4, 0.6, 0.62, 0.8)])]
    verdicts = [
        target.verdict(Measured({"keepstep": row}, {}, {"O_DIRECT write and fsync": Spread.of([floor])}, STATE))
        for floor in (0.2, 0.37, 0.9)
    ]
    assert verdicts == ["failed", "within the noise of 1.6", "aim reached"]


def test_what_lies_within_the_noise_is_not_told_apart() -> None:
    ours = SaveRow("keepstep", "ours", costs=[cost(inflation=each) for each in (0.0, 0.1, 0.1, 0.2)])
    near = SaveRow("dcp-staged", "near", costs=[cost(inflation=each) for each in (0.1, 0.2, 0.2, 0.9)])
    far = SaveRow("stock", "far", costs=[cost(inflation=each) for each in (2.0, 2.1, 2.1, 2.2)])
    assert [against(row, ours) for row in (ours, near, far)] == ["", "not told apart", "+2.00 s"]
    noisy = replace(far, noise=Spread(0.0, -9.0, 9.0, 9, noise=3.0))
    assert against(noisy, ours) == "not told apart"
    assert against(replace(far, costs=far.costs[:3]), ours) == "too few saves"


def test_only_a_warm_load_in_a_process_of_its_own_is_a_resume(results: Results) -> None:
    assert measured(results).warm("keepstep") is None
    assert "**Warm was measured in the process" in render(results)
    results.records = [r for r in results.records if r["kind"] != "resume"]
    times = {"cold": 1.0, "warm": 0.5, "fresh": 0.0, "cached_after_dropping": 0.0, "apart": True}
    results.add(LEG, "resume", "keepstep", 0, times)
    assert (found := measured(results).warm("keepstep")) is not None and found.median == 0.5
    assert "Warm: a process of its own" in render(results)


def test_a_report_says_what_was_not_in_the_run(results: Results) -> None:
    (line,) = [line for line in render(results).splitlines() if line.startswith("Not in this run: ")]
    assert "staged beside the step" in line and "HF Trainer" not in line


def test_bars_are_drawn_of_all_that_saved(results: Results, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    text = write_report(results, tmp_path)
    assert text.startswith("# What a save costs\n\n![what a save adds to a training, by method](bars.png)")
    assert (tmp_path / "bars.png").read_bytes().startswith(b"\x89PNG")


def cost(**given: float) -> Cost:
    plain: dict[str, Any] = {"step": 5, "steps": 1, "blocked": 0.0, "inflation": 0.0, "durable": 0.0, "claimed": 0.0}
    return Cost(**{**plain, "cpu": 0.0, "size": 1, "overlapped": False, **given})


def test_a_missed_target_is_said(results: Results) -> None:
    results.records = [r for r in results.records if r["kind"] != "limits"]
    results.add(LEG, "limits", "", 1, {"bytes": STATE, "seconds": {"O_DIRECT write and fsync": 0.1}})
    target = next(each for each in TARGETS if each.what == "time until durable / O_DIRECT floor")
    assert target.verdict(measured(results)) == "failed"


def test_a_report_has_every_method_and_says_what_refused(results: Results) -> None:
    text = render(results)
    assert "| HF Trainer, stock | 2.0000 [2.0000, 2.0000] | 2.00 [2.00, 2.00] |" in text
    assert "refused: TypeError: no such dtype" in text
    assert "| O_DIRECT write and fsync |" in text
    assert "aim reached" in text


def test_partial_results_are_rendered_and_continued(results: Results, tmp_path: Path) -> None:
    again = Results.read(tmp_path / "results.json")
    assert render(again) == render(results)
    assert again.has(LEG, "course", "stock", 0) and not again.has(LEG, "course", "stock", 1)
    again.records = again.records[:1]
    assert "no save (noise floor)" in render(again)
    with pytest.raises(ValueError, match="other settings"):
        again.begin(Leg("gpt2", ("none",), saves=9))


def test_rounds_alternate_their_order() -> None:
    methods = ("a", "b", "c", "d", "e", "f")
    orders = [turned(methods, turn) for turn in range(3)]
    assert all(sorted(order) == list(methods) for order in orders)
    assert len({order[0] for order in orders}) == 3


def test_a_copy_that_fits_before_the_optimizer_holds_nobody() -> None:
    rates = Rates(copy=10, write=2, fixed=0.001)
    small = simulate(1_000_000_000, 100, rates, Course(step=1.0, before_optimizer=0.5))
    assert small.blocked == pytest.approx(0.001)
    assert small.durable == pytest.approx(0.001 + 0.1 + 0.5)
    large = simulate(20_000_000_000, 100, rates, Course(step=1.0, before_optimizer=0.5, every=50))
    assert large.blocked == pytest.approx(0.001 + 1.5)


def test_a_disk_that_is_too_slow_holds_the_next_save() -> None:
    rates = Rates(copy=10, write=0.1)
    outcome = simulate(1_000_000_000, 1, rates, Course(step=1.0, every=4, saves=6))
    assert outcome.blocked > 4
