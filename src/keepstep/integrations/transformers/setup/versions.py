"""Which versions of the libraries keepstep is tested with, and the line that says where others are in use."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from keepstep.integrations.transformers.setup.messages import logger


@dataclass(frozen=True, slots=True)
class Proved:
    """The oldest and the newest version of a package that all tests pass with; a patch release counts as its minor."""

    package: str
    oldest: str
    newest: str

    def remark(self, installed: str) -> str:
        """What to say of the version that is installed; empty where it is proved."""
        if _minor(installed) > _minor(self.newest):
            return f"{self.package} {installed} is newer than {self.newest}, the newest that keepstep is tested with"
        if _minor(installed) < _minor(self.oldest):
            return f"{self.package} {installed} is older than {self.oldest}, the oldest that keepstep is tested with"
        return ""

    def requirement(self, installed: str) -> str:
        """What pip takes to put a proved one in the place of that."""
        (major, minor), least = _minor(self.newest), _minor(self.oldest)
        at_least = f">={least[0]}.{least[1]}," if _minor(installed) < least else ""
        return f"{self.package}{at_least}<{major}.{minor + 1}"


PROVED = (
    Proved("transformers", "4.57.6", "5.23.0"),
    Proved("trl", "0.26.2", "1.16.0"),
    Proved("torch", "2.13.0", "2.13.0"),
)
"""What constraints-oldest.txt and constraints.txt name."""
WATCHED = ("transformers", "trl")
"""Of which a version that is not proved is said: keepstep relies on how they are made, on torch as it is documented."""

_said = False


def say_versions() -> None:
    """Log one line, once in a process, where a library that this program has imported is of a version not proved."""
    global _said
    if _said:
        return
    _said = True
    line = remark_on(imported())
    if line:
        logger.warning("%s", line)


def imported() -> dict[str, str]:
    """Versions of the watched libraries that this program uses: who trains without TRL hears nothing of it."""
    found: dict[str, str] = {}
    for package in WATCHED:
        if package in sys.modules:
            with suppress(PackageNotFoundError):
                found[package] = version(package)
    return found


def remark_on(versions: Mapping[str, str]) -> str:
    """One line on all that are not proved, with the way back to those that are; empty where all are."""
    remarks, requirements = [], []
    for proved in PROVED:
        installed = versions.get(proved.package, proved.newest)
        if proved.remark(installed):
            remarks.append(proved.remark(installed))
            requirements.append(f"'{proved.requirement(installed)}'")
    if not remarks:
        return ""
    them = "it" if len(remarks) == 1 else "them"
    return f"{'; '.join(remarks)}; if something looks odd, pin {them}: pip install {' '.join(requirements)}"


def _minor(text: str) -> tuple[int, int]:
    """Major and minor number of a release: (5, 24) of "5.24.0.dev0"."""
    major, minor, *_ = [*map(int, re.findall(r"\d+", text)), 0, 0]
    return major, minor
