"""The command line in this process, without waiting for the disk."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest
from click.testing import CliRunner, Result

from keepstep.cli.main import main

Call = Callable[..., Result]


@pytest.fixture(autouse=True)
def _plain_surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("keepstep.stores.local.os.fsync", os.fstat)
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def call() -> Call:
    """Run `keepstep` with these arguments; an exception that is not turned into an exit code fails the test."""

    def run(*arguments: object, **options: object) -> Result:
        result = CliRunner().invoke(main, [str(a) for a in arguments], prog_name="keepstep", **options)  # type: ignore[arg-type]
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
