"""The training arguments of a training, as a person or a program may be told of them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from keepstep.formats.arguments_file import HIDDEN, is_secret, without_secrets
from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.findings import Used
from keepstep.operations.doctor.settings import DEFAULTS, Given


def used(facts: Facts, names: Iterable[str]) -> tuple[Used, ...]:
    """Those of the names that were given and matter here, by name; secrets are hidden."""
    found: list[Used] = []
    for name in sorted(names):
        given = facts.settings.values.get(name)
        if name not in DEFAULTS or not isinstance(given, Given):
            continue
        where = given.where or (facts.at(given.line) if given.line else None)
        value = HIDDEN if is_secret(name) and given.value else _plain(given.value)
        found.append(Used(name, value, given.source.value, str(facts.placed(where)) if where else "", given.unless))
    return tuple(found)


def _plain(value: Any) -> Any:
    """As JSON takes it."""
    if isinstance(value, str):
        return without_secrets(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list):
        return [_plain(one) for one in value]  # pyright: ignore[reportUnknownVariableType]
    return value if value is None or isinstance(value, (bool, int)) else str(value)
