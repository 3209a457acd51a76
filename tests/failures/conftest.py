"""Settings and fixtures of the failure tests; without the hf extra they are not collected."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

if find_spec("transformers") is None or find_spec("peft") is None:
    collect_ignore_glob = ["test_*.py"]
else:
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    import torch

    from tests.failures import build

    torch.set_num_threads(1)

MEMORY = Path("/dev/shm")
UPSTREAM = (
    "ignore:mtime may not be reliable on this filesystem:UserWarning",  # transformers 4, rotating its own
    "ignore:Could not find a config file in:UserWarning",  # peft before 0.19, saving an adapter without a hub id
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """In these tests alone: upstream's own warnings pass; of each test one variant has the library's writers save."""
    saved_by_stock: set[str] = set()
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            for warning in UPSTREAM:
                item.add_marker(pytest.mark.filterwarnings(warning))
            by_stock = getattr(getattr(item, "callspec", None), "params", {}).get("engine") == "stock"
            if by_stock and item.get_closest_marker("long") is None:
                test = item.nodeid.partition("[")[0]
                if test in saved_by_stock:
                    item.add_marker(pytest.mark.long)
                saved_by_stock.add(test)


@pytest.fixture
def tmp_path() -> Iterator[Path]:
    """A directory in memory where there is one: these trainings call fsync thousands of times."""
    with tempfile.TemporaryDirectory(dir=MEMORY if os.access(MEMORY, os.W_OK) else None) as directory:
        yield Path(directory).resolve()


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """The output directory of a run."""
    return tmp_path / "run"


@pytest.fixture(params=["fast", "stock"])
def engine(request: pytest.FixtureRequest) -> str:
    """Each way to save."""
    return request.param


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], str]:
    """What keepstep has logged since the last call."""
    caplog.set_level("INFO", logger="keepstep")

    def lines() -> str:
        text = "\n".join(f"{r.levelname}: {r.getMessage()}" for r in caplog.records if r.name == "keepstep")
        caplog.clear()
        return text

    return lines


@pytest.fixture(scope="session")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The weights that a training ends with when nothing happens to it."""
    return build.weights(build.train(tmp_path_factory.mktemp("uninterrupted"))[0].model)
