"""What holds for every test."""

from __future__ import annotations

import gc
import os
import signal
import threading
from collections import Counter

import pytest
from hypothesis import HealthCheck, settings

from tests import engine

# A busy machine is no defect: no test has a time to keep.
settings.register_profile("any machine", settings.default, deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("any machine")

# Workers and what they start share few cores, and the models are tiny: a second thread only waits beside the first.
os.environ.setdefault("OMP_NUM_THREADS", "1")

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    # A shell that runs the tests in the background ignores Ctrl-C, and so would every process that a test starts.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark further variants as long. Under an engine for all, tests that choose for themselves are left to others."""
    mark_variants(items)
    if engine.chosen():
        own = [item for item in items if "engine" in getattr(getattr(item, "callspec", None), "params", {})]
        config.hook.pytest_deselected(items=own)
        items[:] = [item for item in items if item not in own]


def mark_variants(items: list[pytest.Item]) -> None:
    """The mark `long` for each variant of a test that its mark `quick` does not name or count."""
    counts: Counter[str] = Counter()
    for item in items:
        if (quick := item.get_closest_marker("quick")) is None:
            continue
        test = item.nodeid.partition("[")[0]
        counts[test] += 1
        variant = item.nodeid.removeprefix(test)
        if not any(counts[test] <= one if isinstance(one, int) else one in variant for one in quick.args):
            item.add_marker(pytest.mark.long)


@pytest.fixture(scope="module", autouse=True)
def what_is_imported_is_no_garbage() -> None:
    """A training collects garbage several times; it looks at what the module makes, and not at every import."""
    gc.collect()
    gc.freeze()
