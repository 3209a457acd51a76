"""Versions that nobody has proved are said, once; those that are proved are the ones of the constraints."""

from __future__ import annotations

import logging
import re
import sys
import tomllib
from pathlib import Path

import pytest

pytest.importorskip("trl")

import keepstep
from keepstep.integrations.transformers.setup import versions
from keepstep.integrations.transformers.setup.versions import PROVED, remark_on
from tests.training.tiny import Recipe, build

ROOT = Path(__file__).parents[2]
ODD = {"transformers": "5.30.0", "trl": "1.16.0", "torch": "2.13.0"}
NEWER = (
    "transformers 5.30.0 is newer than 5.23.0, the newest that keepstep is tested with; "
    "if something looks odd, pin it: pip install 'transformers<5.24'"
)
OLDER = (
    "trl 0.25.1 is older than 0.26.2, the oldest that keepstep is tested with; "
    "if something looks odd, pin it: pip install 'trl>=0.26,<1.17'"
)
BOTH = (
    "transformers 5.24.0 is newer than 5.23.0, the newest that keepstep is tested with; "
    "trl 1.17.0 is newer than 1.16.0, the newest that keepstep is tested with; "
    "if something looks odd, pin them: pip install 'transformers<5.24' 'trl<1.17'"
)


def constraints(name: str) -> dict[str, str]:
    return dict(re.findall(r"^([\w-]+)==(\S+)$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))


def test_what_is_called_proved_is_what_is_tested_with() -> None:
    newest, oldest = constraints("constraints.txt"), constraints("constraints-oldest.txt")
    assert {one.package: (one.oldest, one.newest) for one in PROVED} == {
        name: (oldest[name], newest[name]) for name in ("transformers", "trl", "torch")
    }


def test_an_installation_takes_nothing_older_than_what_is_tested_with() -> None:
    oldest = constraints("constraints-oldest.txt")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [one for extra in project["optional-dependencies"].values() for one in extra]
    bounds = dict(one.split(">=", maxsplit=1) for one in needed if ">=" in one)
    assert {"transformers", "trl", "accelerate", "peft", "datasets"} <= set(bounds) & set(oldest)
    for name, version in oldest.items():
        assert name not in bounds or bounds[name] == ".".join(version.split(".")[:2]), name


@pytest.mark.parametrize("name", ["constraints.txt", "constraints-oldest.txt"])
def test_nothing_is_said_of_what_is_proved(name: str) -> None:
    assert remark_on(constraints(name)) == ""


@pytest.mark.parametrize(
    ("installed", "line"),
    [
        ({}, ""),
        ({"transformers": "5.23.7", "trl": "0.26.0", "torch": "2.13.1+cu128"}, ""),
        ({"transformers": "4.99"}, ""),
        ({"transformers": "5.30.0"}, NEWER),
        ({"transformers": "5.24.0.dev0"}, NEWER.replace("5.30.0", "5.24.0.dev0")),
        ({"transformers": "6"}, NEWER.replace("5.30.0", "6")),
        ({"trl": "0.25.1"}, OLDER),
        ({"transformers": "5.24.0", "trl": "1.17.0"}, BOTH),
    ],
)
def test_what_is_said_of_the_others(installed: dict[str, str], line: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proved = ("transformers", "4.57.6", "5.23.0"), ("trl", "0.26.2", "1.16.0"), ("torch", "2.13.0", "2.13.0")
    monkeypatch.setattr(versions, "PROVED", tuple(versions.Proved(*one) for one in proved))
    assert remark_on(installed) == line


def test_a_library_that_is_not_imported_is_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    assert set(versions.imported()) == {"transformers", "trl"}
    monkeypatch.delitem(sys.modules, "trl")
    assert set(versions.imported()) == {"transformers"}


@pytest.fixture
def nothing_said(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    monkeypatch.setattr(versions, "_said", False)
    caplog.set_level(logging.INFO, logger="keepstep")
    return caplog


@pytest.mark.training
@pytest.mark.parametrize("leads", [True, False])
def test_attach_says_it_once_and_by_one_rank(
    leads: bool, tmp_path: Path, nothing_said: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(versions, "imported", lambda: ODD)
    monkeypatch.setattr("keepstep.snapshot.ranks.Ranks.leads", property(lambda _: leads))
    for name in ("a", "b"):
        keepstep.attach(build(Recipe(), tmp_path / name))
    said = [record.getMessage() for record in nothing_said.records if "tested with" in record.getMessage()]
    expected = remark_on(ODD)
    assert expected and said == [expected] * leads


@pytest.mark.training
def test_attach_says_nothing_of_the_versions_that_these_tests_run_with(
    tmp_path: Path, nothing_said: pytest.LogCaptureFixture
) -> None:
    keepstep.attach(build(Recipe(), tmp_path / "run"))
    assert "tested with" not in nothing_said.text
