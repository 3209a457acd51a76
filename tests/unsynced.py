"""Tests that do not wait for the disk: what a sync promises is tried by the crash model and the campaign."""

from __future__ import annotations

import os

import pytest


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """A sync that returns at once, and still fails for a descriptor that is not open."""
    monkeypatch.setattr("keepstep.stores.local.os.fsync", os.fstat)
