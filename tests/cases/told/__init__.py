"""The situations, in groups of one kind each."""

from __future__ import annotations

from functools import cache

from tests.cases.situation import Situation
from tests.cases.told import (
    accumulation,
    adapters,
    attributes,
    callbacks,
    files,
    generation,
    generators,
    hub,
    lives,
    metrics,
    models,
    places,
    saving,
    schedules,
)  # fmt: skip

GROUPS = {
    module.__doc__.rstrip("."): tuple(module.SITUATIONS)
    for module in (
        metrics, files, saving, attributes, callbacks, schedules, accumulation, generators, adapters, models,
        generation, lives, places, hub,
    )
    if module.__doc__
}  # fmt: skip
"""Situations by the title of their group."""


def situation_called(name: str) -> Situation:
    """The situation of that name; raises KeyError where there is none."""
    return _by_name()[name]


@cache
def _by_name() -> dict[str, Situation]:
    return {situation.name: situation for told in GROUPS.values() for situation in told}
