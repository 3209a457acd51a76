"""What the doctor says of trainings of every shape: the findings that are right, and no others."""

from __future__ import annotations

import pytest

from tests.operations.exactness import HERE, Case, cases, measure

pytest.importorskip("yaml")
CASES = cases()


def test_there_are_as_many_cases_as_directories() -> None:
    assert len(CASES) == len([path for path in HERE.iterdir() if path.is_dir()]) >= 20


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_finding_that_appears_or_goes_is_noticed(case: Case) -> None:
    outcome = measure(case)
    assert (outcome.false, outcome.missed) == (case.false, case.missed)
    assert outcome.settings >= case.settings


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_is_not_known_is_said_once(case: Case) -> None:
    unknown = measure(case).unknown
    assert len(unknown) == len(set(unknown))
    assert len(unknown) <= 1
