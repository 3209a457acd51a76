"""A supervised command in a directory of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.supervision.commands import Ended, Supervised

Start = Callable[..., Supervised]
Run = Callable[..., Ended]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start a command under supervision; what still runs at the end is killed."""
    started: list[Supervised] = []

    def begin(command: Sequence[object], *options: object, **popen: Any) -> Supervised:
        started.append(Supervised(tmp_path / "told", command, options, **popen))
        return started[-1]

    yield begin
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
        one.process.communicate()


@pytest.fixture
def run(start: Start) -> Run:
    """Run a command under supervision to its end."""

    def to_its_end(command: Sequence[object], *options: object, **popen: Any) -> Ended:
        return start(command, *options, **popen).wait()

    return to_its_end
