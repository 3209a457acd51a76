"""One S3 server for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mirror import servers


@pytest.fixture(scope="session")
def s3() -> Iterator[str]:
    with servers.moto() as address:
        yield address


@pytest.fixture(params=["directory", "s3"])
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a mirror that is none yet."""
    if request.param == "directory":
        return str(tmp_path / "mirror")
    servers.use(request.getfixturevalue("s3"), monkeypatch)
    return f"s3://{servers.BUCKET}/{tmp_path.name}"


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Path]:
    """A directory that is not there."""
    return lambda name: tmp_path / name
