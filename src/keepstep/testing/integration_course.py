"""A course: one training as the suite for integrations asks for it, in plain values, and what it leaves to compare."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any

import msgspec

SCORES = {2: 0.5, 4: 0.9, 6: 0.4, 8: 0.7, 10: 0.6}
"""The best is neither the newest nor the first, and the second best comes late."""


class Point(StrEnum):
    """A moment of one save."""

    UNBEGUN = "before a byte is written"
    HALF_FILE = "half of its files written"
    HALF_MANIFEST = "half of the manifest written"
    STAGED = "the manifest written, not renamed"
    COMMITTED = "renamed, nothing removed yet"
    REMOVING = "in the midst of removing others"

    @property
    def committed(self) -> bool:
        """True when the checkpoint is there after a kill at this moment."""
        return self in (Point.COMMITTED, Point.REMOVING)


class Effect(StrEnum):
    """What happens at the moment of a strike: SIGKILL, a pause until the suite lets go, or no more room on the disk."""

    KILL = "kill"
    HOLD = "hold"
    FULL = "full"


class Strike(msgspec.Struct, frozen=True):
    """What happens to a training, in the save of which step, and when in it. HOLD and FULL begin when all but the
    manifest is written.
    """

    effect: Effect
    step: int
    point: Point = Point.STAGED


class Course(msgspec.Struct, frozen=True, kw_only=True):
    """What a training is to do.

    It trains `steps` optimizer steps in the run directory; every `every` steps it evaluates, then saves. Its metric
    at a step is `scores[step]`, whatever the model has learned; higher is better. `keep` is its policy. It resumes
    from the newest checkpoint that holds, and begins anew where there is none ("auto"). `directory` is the run's;
    `home` is one beside it for what the suite and the training tell each other.
    """

    directory: str
    home: str
    steps: int = 10
    every: int = 2
    keep: str = "best:2,latest:1"
    scores: dict[int, float] = msgspec.field(default_factory=lambda: dict(SCORES))
    strike: Strike | None = None

    @classmethod
    def parse(cls, text: str) -> Course:
        """The course that `str(course)` wrote. Raises ValueError."""
        return msgspec.json.decode(text, type=cls)

    def __str__(self) -> str:
        return msgspec.json.encode(self).decode()

    def saves_at(self, step: int) -> bool:
        """True for the steps at which it evaluates and saves."""
        return step % self.every == 0

    @property
    def log(self) -> Path:
        """The file that what the training prints belongs into."""
        return Path(self.home, "log.txt")

    @property
    def struck(self) -> Path:
        """A file that is there once the strike has happened."""
        return Path(self.home, "struck")

    @property
    def released(self) -> Path:
        """A file that lets a training go on that was struck by HOLD."""
        return Path(self.home, "released")

    @property
    def outcome(self) -> Path:
        """The file that the outcome of a training that ended well is in."""
        return Path(self.home, "outcome.json")


class Outcome(msgspec.Struct, frozen=True):
    """What a training left when it ended well.

    `state` is a digest (`digest`) of everything that it ended with, by name: each weight, the optimizer's and
    scheduler's state, the random generators. `log` is all that was logged from step 0 on, in order, without values
    that tell of the clock.
    """

    state: Mapping[str, str]
    log: list[dict[str, Any]]

    @classmethod
    def read(cls, path: Path) -> Outcome:
        """The outcome in a file. Raises OSError, ValueError."""
        return msgspec.json.decode(path.read_bytes(), type=cls)

    def write(self, path: Path) -> None:
        """Put it into a file."""
        path.write_bytes(msgspec.json.encode(self))

    def differences(self, other: Outcome) -> Iterator[str]:
        """What differs, in words; nothing when both trainings ended the same."""
        for name in sorted(self.state.keys() | other.state.keys()):
            if self.state.get(name) != other.state.get(name):
                yield f"{name} differs"
        if len(self.log) != len(other.log):
            yield f"{len(self.log)} and {len(other.log)} entries in the log"
        for one, two in zip(self.log, other.log, strict=False):
            if one != two:
                yield f"logged {one} and {two}"


def digest(data: bytes) -> str:
    """A digest of the bytes of one value of an outcome's state."""
    return hashlib.blake2b(data, digest_size=16).hexdigest()
