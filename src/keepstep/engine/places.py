"""Places where libraries look a function up, and what stands there for a while."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest.mock import patch

Place = tuple[str, str]
"""Module and name there."""


@contextmanager
def standing_in(places: Iterable[Place], value: Any) -> Iterator[None]:
    """While it lasts, `value` is what the places give; those of modules that nobody imported are left out."""
    with ExitStack() as replaced:
        for module, name in places:
            if hasattr(sys.modules.get(module), name):
                replaced.enter_context(patch.object(sys.modules[module], name, value))
        yield
