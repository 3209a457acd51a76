"""The page of faults has every row of the tests, and every test that it names is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.mirror import test_faults

HERE = Path(__file__).parent
PAGE = (HERE.parents[1] / "docs" / "mirror.md").read_text()
NAMED = sorted(set(re.findall(r"`(test_\w+\.py)::(test_\w+)`", PAGE)))


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_every_test_that_the_page_names_is_there(file: str, name: str) -> None:
    assert f"def {name}(" in (HERE / file).read_text()


def test_every_fault_has_its_row() -> None:
    up, down = PAGE.split("## Faults on the way up")[1].split("## Faults on the way down")
    for table, rows in ((up, {**test_faults.PASSING, **test_faults.LASTING}), (down, test_faults.DOWN)):
        assert [name for name in rows if f"\n| {name}" not in table] == []


def test_every_test_of_faults_is_on_the_page() -> None:
    tests = re.findall(r"^def (test_\w+)\(", (HERE / "test_faults.py").read_text(), re.MULTILINE)
    assert [name for name in tests if ("test_faults.py", name) not in NAMED] == []
