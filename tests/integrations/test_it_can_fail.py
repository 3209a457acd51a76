"""Each case of the suite for integrations fails for what it is there to find, and for nothing else."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from keepstep.testing.integration_course import Point
from keepstep.testing.integration_trial import Trial
from keepstep.testing.integrations import IntegrationConformance as Suite
from tests.integrations import flawed_loop as flaws
from tests.integrations.flawed_loop import Flaw, FlawedLoop, Forks

EXACT = Suite.test_killed_between_two_saves_it_resumes_exactly
KILLED = Suite.test_killed_inside_a_save_it_ends_as_if_nothing_had_happened
DAMAGED = Suite.test_a_damaged_newest_is_passed_over
KEPT = Suite.test_the_best_and_the_newest_are_kept
STOCK = Suite.test_stock_tools_read_every_checkpoint
SECOND = Suite.test_a_second_process_is_refused
FULL = Suite.test_a_disk_that_is_full_costs_no_checkpoint
SMALL = Suite.test_on_a_disk_too_small_for_all_the_best_and_the_newest_stay
CASES = (EXACT, KILLED, DAMAGED, KEPT, STOCK, SECOND, FULL, SMALL)

Case = Callable[..., None]
FAILS: dict[Flaw, set[Case]] = {
    flaws.none: set(),
    flaws.forgets_its_momentum: {EXACT, KILLED, DAMAGED, FULL},
    flaws.forgets_what_it_logged: {EXACT, KILLED, DAMAGED, FULL},
    flaws.notes_no_receipt: {EXACT, DAMAGED},
    flaws.calls_a_resume_approximate: {EXACT},
    flaws.removes_the_old_before_the_new_is_there: set(CASES) - {STOCK},
    flaws.writes_where_it_can_be_seen: {EXACT, KILLED, DAMAGED, SECOND, FULL, SMALL},
    flaws.loads_what_is_damaged: {DAMAGED},
    flaws.passes_over_in_silence: {DAMAGED},
    flaws.throws_away_what_is_damaged: {DAMAGED},
    flaws.ranks_upside_down: {KEPT, FULL, SMALL},
    flaws.keeps_the_newest_alone: {KEPT},
    flaws.stock_tools_find_the_weights_of_before: {STOCK},
    flaws.needs_keepstep_to_be_read: {STOCK},
    flaws.takes_a_lock_of_its_own: {SECOND},
    flaws.dies_of_a_full_disk: {FULL},
    flaws.gives_up_the_best_first: {SMALL},
}


class FlawedSuite(Suite):
    """The suite, to be called case by case."""

    def make_adapter(self) -> FlawedLoop:
        raise NotImplementedError


@pytest.fixture(scope="module")
def forks() -> Iterator[Forks]:
    with Forks.running() as running:
        yield running


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where there is one: hundreds of trainings save here."""
    memory = Path("/dev/shm")
    with TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else tmp_path) as directory:
        yield Path(directory)


@pytest.mark.parametrize("flaw", FAILS, ids=lambda flaw: flaw.__name__)
def test_a_flaw_fails_the_cases_that_are_there_for_it(flaw: Flaw, place: Path, forks: Forks) -> None:
    failed: set[Case] = set()
    skipped: set[Case] = set()
    adapter = FlawedLoop(flaw, forks)
    reference = Trial(adapter, place / "reference")
    reference.ends()
    for case in CASES:
        for number, arguments in enumerate(_calls(case)):
            home = place / f"{case.__name__}{number}"
            home.mkdir()
            given = {"adapter": adapter, "reference": reference, "tmp_path": home, **arguments}
            try:
                case(FlawedSuite(), **{name: given[name] for name in _parameters(case)})
            except AssertionError as error:
                print(f"{case.__name__} {arguments}: {str(error)[:300]}")
                failed.add(case)
            except pytest.skip.Exception:
                skipped.add(case)
    assert _names(failed) == _names(FAILS[flaw] - skipped)


def test_every_case_is_here_and_one_flaw_each_fails_it() -> None:
    assert _names(CASES) == {name for name in dir(Suite) if name.startswith("test_")}
    assert _names(set[Case]().union(*FAILS.values())) == _names(CASES)


def _names(cases: Any) -> set[str]:
    return {case.__name__ for case in cases}


def _parameters(case: Case) -> list[str]:
    return [name for name in inspect.signature(case).parameters if name != "self"]


def _calls(case: Case) -> list[dict[str, Any]]:
    """The arguments of each call. Of the moments in a save one before the commit and one after it stand for all."""
    return [{"point": point} for point in (Point.HALF_FILE, Point.COMMITTED)] if case is KILLED else [{}]
