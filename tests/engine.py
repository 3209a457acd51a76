"""The engine that the suites attach with: `KEEPSTEP_TEST_ENGINE=stock` runs them with the library's own writers."""

from __future__ import annotations

import os
from typing import Any

VARIABLE = "KEEPSTEP_TEST_ENGINE"


def chosen() -> dict[str, Any]:
    """Options of `attach`; none without the variable, so that the default is tested."""
    engine = os.environ.get(VARIABLE)
    return {"engine": engine} if engine else {}


def is_stock() -> bool:
    """True where the library's own writers save."""
    return os.environ.get(VARIABLE) == "stock"
