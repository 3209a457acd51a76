"""What holds for every test."""

from __future__ import annotations

import signal
import threading

import pytest
from hypothesis import HealthCheck, settings

from tests import engine

# A busy machine is no defect: no test has a time to keep.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell that runs the tests in the background ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where an engine is chosen for the whole suite, tests that choose for themselves are left to the other run."""
    if engine.chosen():
        own = [item for item in items if "engine" in getattr(getattr(item, "callspec", None), "params", {})]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]
