"""Each kind of server once for all tests of a process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.mirror import servers
from tests.mirror.gate import Gate


@pytest.fixture(scope="session")
def s3() -> Iterator[servers.Server]:
    with servers.running(servers.Moto) as server:
        yield server


@pytest.fixture(scope="session")
def seaweed() -> Iterator[servers.Server]:
    with servers.running(servers.Seaweed) as server:
        yield server


@pytest.fixture(scope="session")
def azurite() -> Iterator[servers.Server]:
    with servers.running(servers.Azurite) as server:
        yield server


@pytest.fixture(scope="session")
def rclone() -> Iterator[servers.Server]:
    with servers.running(servers.Rclone) as server:
        yield server


PLACES = ["directory", "s3", *(pytest.param(name, marks=pytest.mark.servers) for name in ("seaweed", "azurite"))]


@pytest.fixture(params=PLACES)
def address(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The address of a mirror that is none yet."""
    if request.param == "directory":
        return str(tmp_path / "mirror")
    server: servers.Server = request.getfixturevalue(request.param)
    servers.use(server, monkeypatch)
    return f"{server.scheme}://{servers.BUCKET}/{tmp_path.name}"


@pytest.fixture
def fresh(tmp_path: Path) -> Callable[[str], Path]:
    """A directory that is not there."""
    return lambda name: tmp_path / name


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> type[Gate]:
    Gate.busy.clear()
    Gate.through.clear()
    Gate.up.set()
    monkeypatch.setattr("keepstep.mirror.mirror.DirectoryObjects", Gate)
    return Gate
