"""What every integration must show, as a suite of tests that an integration's own test inherits."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from pathlib import Path

import pytest

from keepstep import layout
from keepstep.errors import DiskFull, RunLocked
from keepstep.model import Kind
from keepstep.testing.integration_adapter import IntegrationAdapter
from keepstep.testing.integration_course import Effect, Point, Strike
from keepstep.testing.integration_disk import pages, small_disk
from keepstep.testing.integration_trial import Trial

BEST, BEFORE, STRUCK, LAST = 4, 6, 8, 10
"""Steps of a course: the best by its scores, the last save before a strike, the one that is struck, the end."""
INSIDE = [point for point in Point if point is not Point.UNBEGUN]
ROOM = 3
"""Checkpoints that a small disk has room for, of the five that a course saves."""
SPARE = 2**16
"""Bytes beside them: the run's own files."""


class IntegrationConformance(ABC):
    """Inherit, name the class `Test...`, and return the integration's adapter from `make_adapter`.

    Each case trains in processes of its own, about twenty in all, of 10 steps each; what they end with is compared
    with the reference, one training that nothing happens to. A checkpoint should have 64 KiB or more.
    """

    @abstractmethod
    def make_adapter(self) -> IntegrationAdapter:
        """The adapter of the integration."""

    @pytest.fixture
    def adapter(self) -> IntegrationAdapter:
        return self.make_adapter()

    @pytest.fixture
    def reference(self, adapter: IntegrationAdapter, tmp_path_factory: pytest.TempPathFactory) -> Trial:
        known = _REFERENCES.get(type(self))
        if known is None:
            known = Trial(adapter, tmp_path_factory.mktemp("reference"))
            known.ends()
            _REFERENCES[type(self)] = known
        return known

    # -- resuming ----------------------------------------------------------------------------------------

    def test_killed_between_two_saves_it_resumes_exactly(
        self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path
    ) -> None:
        """Killed and resumed, a training ends with the same bits as one that was not, and its receipt says so."""
        trial = Trial(adapter, tmp_path)
        trial.train(Strike(Effect.KILL, STRUCK, Point.UNBEGUN))
        trial.assert_holds(newest=BEFORE)
        trial.ends()
        trial.assert_left_like(reference)
        receipt = trial.receipt
        assert (receipt["step"], receipt["level"], receipt["verified"]) == (BEFORE, "exact", True), f"{receipt}"

    @pytest.mark.parametrize("point", INSIDE, ids=str)
    def test_killed_inside_a_save_it_ends_as_if_nothing_had_happened(
        self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path, point: Point
    ) -> None:
        """A kill inside a save costs that save at most: nothing half is ever seen, and nothing else is lost."""
        trial = Trial(adapter, tmp_path)
        trial.train(Strike(Effect.KILL, STRUCK, point))
        trial.assert_holds(newest=STRUCK if point.committed else BEFORE)
        trial.ends()
        trial.assert_left_like(reference)

    def test_a_damaged_newest_is_passed_over(
        self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path
    ) -> None:
        """One byte flipped in the newest: the one before is resumed from, which is said, and nothing is thrown away."""
        trial = Trial(adapter, tmp_path, keep="latest:2")
        trial.train(Strike(Effect.KILL, STRUCK, Point.UNBEGUN))
        newest = trial.assert_holds(newest=BEFORE)
        assert newest.path is not None
        _flip_a_byte(newest.path / adapter.file_to_damage(newest))
        damaged = _files(newest.path)
        trial.ends()
        trial.assert_ended_like(reference)
        receipt = trial.receipt
        assert receipt["step"] == BEST, f"it resumed from step {receipt['step']}"
        assert any(newest.name in text for text in receipt["passed_over"]), f"not a word of {newest.name}: {receipt}"
        aside = [c.path for c in trial.run.aside if c.path is not None and c.step == newest.step]
        assert damaged in [_files(path) for path in aside], "the damaged one is gone"

    # -- keeping -----------------------------------------------------------------------------------------

    def test_the_best_and_the_newest_are_kept(self, reference: Trial) -> None:
        """The best two by the metric and the newest are on the disk at the end, and the best is known."""
        run, scores = reference.run, reference.course.scores
        assert reference.saved == list(scores), f"saved at {reference.saved}"
        names = [c.name for c in run.checkpoints]
        assert [c.step for c in run.checkpoints] == [BEST, STRUCK, LAST], f"{names} are left"
        metric = run.policy.metric
        assert metric is not None, "nothing ranks the checkpoints"
        known = {c.step: metric.value(c.metrics) for c in run.checkpoints}
        assert known == {step: scores[step] for step in known}, f"{metric.name} is {known}"
        assert run.best is not None and run.best.step == BEST, "the best by its metric is another one"
        reference.assert_holds(newest=LAST)

    def test_stock_tools_read_every_checkpoint(self, reference: Trial, tmp_path: Path) -> None:
        """What is committed loads without keepstep, wherever it is copied to and without keepstep's own directory."""
        found = reference.stock_weights()
        assert all(found.values()), f"no weights in some: {found}"
        final = reference.outcome.state
        newest = {name: final.get(name) for name in found[f"checkpoint-{LAST}"]}
        assert newest == found[f"checkpoint-{LAST}"], "they read other weights from the last one than it ended with"
        copy = tmp_path / "copy"
        shutil.copytree(reference.course.directory, copy, ignore=shutil.ignore_patterns(layout.META))
        assert reference.stock_weights(copy) == found

    # -- one directory, one training -----------------------------------------------------------------------

    def test_a_second_process_is_refused(self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path) -> None:
        """While one trains another can't begin in its directory: it ends with RunLocked, and the first is unharmed."""
        first = Trial(adapter, tmp_path / "first")
        second = Trial(adapter, tmp_path / "second", directory=Path(first.course.directory))
        with first.held(Strike(Effect.HOLD, BEFORE)) as ending:
            code = second.train()
            assert code == RunLocked.exit_code, f"the second was not refused\n{second.said(code)}"
            first.assert_holds(newest=BEST)
        assert ending.result() == 0, first.said(ending.result())
        first.assert_left_like(reference)

    # -- a full disk -------------------------------------------------------------------------------------

    def test_a_disk_that_is_full_costs_no_checkpoint(
        self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path
    ) -> None:
        """From the middle of a save on nothing can be written: the training goes on, or ends with DiskFull; the best
        and the newest are there, and with room again it ends as if nothing had happened.
        """
        trial = Trial(adapter, tmp_path)
        code = trial.train(Strike(Effect.FULL, STRUCK))
        assert code in (0, DiskFull.exit_code), f"it did not end as documented\n{trial.said(code)}"
        trial.assert_holds(newest=BEFORE)
        _assert_best_is_there(trial)
        trial.ends()
        trial.assert_left_like(reference)

    def test_on_a_disk_too_small_for_all_the_best_and_the_newest_stay(
        self, adapter: IntegrationAdapter, reference: Trial, tmp_path: Path
    ) -> None:
        """On a real file system that fills, room is made by policy, or saves are refused and it ends with DiskFull."""
        newest = reference.assert_holds(newest=LAST)
        one = sum(pages(entry.size) for entry in newest.files)
        with small_disk(tmp_path / "disk", one * ROOM + SPARE) as disk:
            trial = Trial(adapter, tmp_path / "home", directory=disk / "run", keep="all")
            code = trial.train()
            assert code in (0, DiskFull.exit_code), f"it did not end as documented\n{trial.said(code)}"
            full = [c.step for c in trial.run.checkpoints if c.kind is Kind.FULL]
            assert len(full) <= ROOM + SPARE // one, f"the disk was not too small: {full}"
            trial.assert_holds(newest=trial.saved[-1])
            _assert_best_is_there(trial)
            if code == 0:
                trial.assert_ended_like(reference)


_REFERENCES: dict[type[IntegrationConformance], Trial] = {}
"""One for all cases of a class. A fixture of that scope is written otherwise from one pytest to the next."""


def _assert_best_is_there(trial: Trial) -> None:
    """Of all that was ever saved, the best is on the disk, whole or as weights."""
    best, scores = trial.run.best, trial.course.scores
    expected = max(trial.saved, key=lambda step: scores[step])
    assert best is not None and best.step == expected, f"the best is {best and best.name}, not that of step {expected}"


def _flip_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _files(directory: Path) -> dict[str, bytes]:
    return {p.relative_to(directory).as_posix(): p.read_bytes() for p in directory.rglob("*") if p.is_file()}
