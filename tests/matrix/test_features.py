"""Features that a resume comes through bit for bit, or that its receipt names: the quick rows; more in the campaign."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path

import pytest

if find_spec("transformers") is None or find_spec("trl") is None:
    pytest.skip("needs the hf extra and trl", allow_module_level=True)

from tests.matrix.courses import course
from tests.matrix.features import FEATURES

pytestmark = [pytest.mark.training, pytest.mark.timeout(900)]

QUICK = [name for name, feature in FEATURES.items() if feature.quick]
LENGTH = int(os.environ.get("KEEPSTEP_TEST_FEATURES", "6"))
"""How many of the others the campaign plays; `python -m tests.matrix --features` plays all."""


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.quick("two workers", "persistent")
def test_feature(name: str, tmp_path: Path) -> None:
    _judge(name, tmp_path)


@pytest.mark.campaign
@pytest.mark.parametrize("name", [name for name in FEATURES if name not in QUICK][:LENGTH])
def test_feature_of_the_campaign(name: str, tmp_path: Path) -> None:
    _judge(name, tmp_path)


def _judge(name: str, home: Path) -> None:
    played = course(name, home)
    if played.missing:
        pytest.skip(f"needs {played.missing}")
    assert played.verdict is played.feature.wants, played.ending
    assert played.feature.says in played.ending.told
