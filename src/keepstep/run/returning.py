"""A return: the course of a checkpoint that lies aside becomes the run's again, and what is not of it goes aside.

What is to move is put down first. Whatever stops it on the way, the next start carries it out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, KeepstepError
from keepstep.model import Checkpoint, State
from keepstep.repository import Repository
from keepstep.run.events import Event, EventLog
from keepstep.run.lineage import Lineage
from keepstep.stores import Store

Came = Literal["set aside", "quarantined"]


class Return(msgspec.Struct, frozen=True):
    """What moves when a checkpoint comes back: it and others of its course, the first of `back`; and what of the run
    is of another course, and goes to a timeline. By generation, but for the first.
    """

    checkpoint: Checkpoint
    back: tuple[Checkpoint, ...]
    aside: tuple[Checkpoint, ...]
    timeline: int

    @property
    def leaves_course(self) -> bool:
        """True where a course goes aside."""
        return bool(self.aside)


class _Place(msgspec.Struct, frozen=True):
    generation: int
    key: str


class _Intent(msgspec.Struct, frozen=True):
    generation: int
    step: int
    came_from: Came
    timeline: int
    back: list[_Place]
    aside: list[_Place]
    steps: list[int]
    steps_aside: list[int]


def planned(
    checkpoint: Checkpoint,
    *,
    committed: Sequence[Checkpoint],
    aside: Iterable[Checkpoint],
    events: Iterable[Event],
    timeline: int,
    alone: bool = False,
) -> Return:
    """What moves when a checkpoint that lies aside comes back. Nothing is changed.

    One that the newest checkpoint of the run was trained through takes its place beside the others. Else its course
    becomes the run's: what of it a rewind had set aside comes back with it, unless `alone`, and what is not of it goes
    aside. `timeline` is the number for that.
    """
    aside = tuple(aside)
    lineage = Lineage((*committed, *aside), events)
    newest = max(committed, key=lambda c: c.generation, default=None)
    if newest is not None and checkpoint.generation in lineage.course(newest):
        return Return(checkpoint, (checkpoint,), tuple(c for c in committed if c.name == checkpoint.name), timeline)
    course = lineage.course(checkpoint)
    going = [c for c in committed if c.generation not in course or c.name == checkpoint.name]
    staying = {c.generation for c in committed} - {c.generation for c in going}
    others = (
        () if alone else _others(checkpoint, aside, course - staying, {c.name for c in committed if c not in going})
    )
    return Return(checkpoint, (checkpoint, *others), tuple(going), timeline)


def _others(
    checkpoint: Checkpoint, aside: Sequence[Checkpoint], course: frozenset[int], taken: set[str]
) -> tuple[Checkpoint, ...]:
    """What a rewind set aside of a course, each generation and each name once."""
    found: dict[int, Checkpoint] = {}
    names = {checkpoint.name, *taken}
    for other in sorted(aside, key=lambda c: (-c.generation, not c.saved_whole)):
        of_course = other.generation in course and other.generation != checkpoint.generation
        if of_course and other.state is State.SET_ASIDE and other.generation not in found and other.name not in names:
            found[other.generation] = other
            names.add(other.name)
    return tuple(found[generation] for generation in sorted(found))


def begin(store: Store, repository: Repository, what: Return) -> None:
    """Put down, durably, what is to move."""
    came: Came = "quarantined" if what.checkpoint.state is State.QUARANTINED else "set aside"
    intent = _Intent(
        what.checkpoint.generation,
        what.checkpoint.step,
        came,
        what.timeline,
        [_Place(c.generation, repository.key(c)) for c in what.back],
        [_Place(c.generation, c.name) for c in what.aside],
        sorted(c.step for c in what.back),
        sorted(c.step for c in what.aside),
    )
    store.replace(layout.RETURN, msgspec.json.encode(intent) + b"\n")


def finish(store: Store, repository: Repository, events: EventLog) -> None:
    """Carry out what was put down, if anything was. Raises KeepstepError where that can't be read.

    What has a free place comes first, so that there is always one to resume from. Where the name is taken, that one is
    durably aside before the other comes: two names are never swapped, which a power cut may leave half done.
    """
    intent = _read(store)
    if intent is None:
        return
    taken = {place.key for place in intent.aside}
    for place in sorted(intent.back, key=lambda place: _name(place) in taken):
        if _name(place) in taken:
            _set_aside(repository, next(one for one in intent.aside if one.key == _name(place)), intent)
        _bring(repository, place)
    for place in intent.aside:
        _set_aside(repository, place, intent)
    events.append("restored", **_fields(intent))
    store.delete(layout.RETURN)
    store.sync_directory(layout.META)


def _read(store: Store) -> _Intent | None:
    try:
        data = store.read(layout.RETURN, limit=layout.SMALL_FILE_LIMIT)
    except FileNotFoundError:
        return None
    try:
        return msgspec.json.decode(data, type=_Intent)
    except layout.NOT_JSON as error:
        raise KeepstepError(
            f"{store.local_path(layout.RETURN)} is damaged, and a restore was under way",
            hint="Delete it to stay with the checkpoints that are there; what is aside can be restored anew.",
        ) from error


def _bring(repository: Repository, place: _Place) -> None:
    there = repository.committed(_name(place))
    # A power cut may leave a directory under both names, where a file system writes each back in its own time.
    if there is not None and there.generation == place.generation:
        return
    if (checkpoint := _at(repository, place.key, place.generation)) is not None:
        repository.bring_back(checkpoint)


def _set_aside(repository: Repository, place: _Place, intent: _Intent) -> None:
    if (checkpoint := _at(repository, place.key, place.generation)) is not None:
        repository.set_aside(checkpoint, intent.timeline)


def _name(place: _Place) -> str:
    return place.key.rpartition("/")[2]


def _at(repository: Repository, key: str, generation: int) -> Checkpoint | None:
    """The run's checkpoint of a generation in a directory, None where there is none or another."""
    try:
        found = repository.read_manifest(key)
    except (OSError, CheckpointCorrupt):
        return None
    return found if (found.run_id, found.generation) == (repository.run_id, generation) else None


def _fields(intent: _Intent) -> dict[str, Any]:
    return {
        "step": intent.step,
        "generation": intent.generation,
        "came_from": intent.came_from,
        "restored": intent.steps,
        "generations": sorted(place.generation for place in intent.back),
        "set_aside": intent.steps_aside,
        "generations_aside": sorted(place.generation for place in intent.aside),
        "left": intent.timeline if intent.aside else None,
        "now": intent.timeline + bool(intent.aside),
    }
