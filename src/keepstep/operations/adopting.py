"""Making a managed run of a directory that others wrote: every byte is hashed, and nothing is moved or removed."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec.structs import replace

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, KeepstepError, RunNotFound, SettingsError
from keepstep.model import Checkpoint
from keepstep.repository import MANIFEST_NAME, OnBytes
from keepstep.retention import Policy
from keepstep.run import History, Run, StockRun, commit_fields, policy_facts
from keepstep.stock import UNMANAGED, TrainerState
from keepstep.stores import LocalStore, store_at
from keepstep.version import __version__

ADOPTED = "adopted"
"""Member of an adopted checkpoint's `written_by`: who wrote it, as far as its files tell."""


class NothingToAdopt(KeepstepError):
    """The directory has no checkpoint that is whole."""

    code = "nothing-to-adopt"
    exit_code = 3


class _Place(msgspec.Struct, frozen=True):
    name: str
    generation: int


class _Intent(msgspec.Struct, frozen=True):
    """What an adoption has set out to do: it is on the disk before anything else, so that another one goes on."""

    places: list[_Place]


@dataclass(frozen=True, slots=True)
class Torn:
    """A checkpoint that stays as it is, and why."""

    checkpoint: Checkpoint
    flaws: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Adoption:
    """What is to be done: `checkpoints` in their order, each with the generation that it gets; `done` of them have been
    adopted before, by an adoption that was interrupted. `policy` is what will be in force: everything is kept.
    """

    path: Path
    checkpoints: tuple[Checkpoint, ...]
    done: frozenset[int]
    torn: tuple[Torn, ...]
    policy: Policy
    state: TrainerState | None
    """The Trainer's at its newest save: its log is taken over."""

    @property
    def records(self) -> int:
        """Records of the training's log."""
        return len(self.state.log) if self.state else 0

    @property
    def left(self) -> tuple[Checkpoint, ...]:
        """Those that are still to be hashed."""
        return tuple(c for c in self.checkpoints if c.generation not in self.done)

    @property
    def size_bytes(self) -> int:
        """Bytes to hash."""
        return sum(checkpoint.size_bytes for checkpoint in self.left)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        metric = self.policy.metric
        return {
            "run": str(self.path),
            "checkpoints": [
                {
                    "step": c.step,
                    "generation": c.generation,
                    "timeline": c.timeline,
                    "path": str(c.path),
                    "size_bytes": c.size_bytes,
                    "metrics": dict(c.metrics),
                    "adopted_before": c.generation in self.done,
                }
                for c in self.checkpoints
            ],
            "torn": [
                {"step": t.checkpoint.step, "path": str(t.checkpoint.path), "why": list(t.flaws)} for t in self.torn
            ],
            "metric": None if metric is None else {"name": metric.name, "mode": metric.mode},
            "records": self.records,
            "hashes_bytes": self.size_bytes,
        }


def is_half_adopted(path: str | os.PathLike[str]) -> bool:
    """True where an adoption was begun and is not done."""
    return LocalStore(Path(path)).exists(layout.ADOPTING)


def plan_adoption(path: str | os.PathLike[str]) -> Adoption:
    """What an adoption of a directory would do; nothing is written.

    Raises RunNotFound without a checkpoint, NothingToAdopt where none is whole, SettingsError for a managed run.
    """
    store = store_at(Path(path))
    half = is_half_adopted(store.root)
    if not half and _is_managed(store.root):
        raise SettingsError(f"{store.root} is a managed run already", hint=f"See it: keepstep ls {store.root}")
    run = StockRun.open(store.root)
    numbers = _numbers(store, run)
    listed = {c.path.name: c for c in run.checkpoints if c.path is not None}
    whole = tuple(
        replace(listed[name], generation=number, parent=_parent(listed[name], listed, numbers))
        for name, number in sorted(numbers.items(), key=lambda item: item[1])
        if name in listed and not run.flaws(listed[name])
    )
    torn = tuple(Torn(c, run.flaws(c)) for c in listed.values() if run.flaws(c))
    if not whole:
        raise NothingToAdopt(
            f"{store.root} has no checkpoint that is whole: "
            + "; ".join(f"{t.checkpoint.name}: {t.flaws[0]}" for t in torn[:5]),
            hint="What is torn stays as it is. Start the training anew in another output_dir.",
        )
    done = frozenset(c.generation for c in whole if store.exists(f"{_name(c)}/{MANIFEST_NAME}"))
    return Adoption(store.root, whole, done, torn, run.policy, run.trainer_state)


def adopt(
    adoption: Adoption, on_start: Callable[[Checkpoint], None] | None = None, on_bytes: OnBytes | None = None
) -> Run:
    """Carry it out; returns the run. What was done before a crash stays done, and another adoption goes on from there.

    Raises RunLocked, StorageError.
    """
    store = LocalStore(adoption.path)
    store.make_directory(layout.META)
    if not is_half_adopted(adoption.path):
        places = [_Place(_name(c), c.generation) for c in adoption.checkpoints]
        store.replace(layout.ADOPTING, msgspec.json.encode(_Intent(places)))
    run = Run.create(adoption.path, adoption.policy)
    with run.writing("an adoption"):
        highest = max(c.generation for c in adoption.checkpoints)
        # No commit of a training in between may take one of these numbers.
        run.events.append("adopting", generation=highest, steps=[c.step for c in adoption.checkpoints])
        facts = {**policy_facts(adoption.policy), "keepstep": __version__}
        for draft in adoption.left:
            if on_start is not None:
                on_start(draft)
            written_by = {**facts, ADOPTED: dict(draft.written_by)}
            run.repository.adopt(replace(draft, run_id=run.id, written_by=written_by), on_bytes)
        logged = {event.get("generation") for event in run.events.read() if event["event"] == "committed"}
        for checkpoint in adoption.checkpoints:
            if checkpoint.generation not in logged:
                fields = commit_fields(checkpoint, [])
                run.events.append("committed", time=checkpoint.created, **fields, adopted=True)
        if adoption.state is not None and not History(store).points:
            _bring(store, adoption.state, adoption.checkpoints[-1])
        run.events.append(
            "adopted",
            steps=[c.step for c in adoption.checkpoints],
            torn=[t.checkpoint.step for t in adoption.torn],
            size_bytes=sum(c.size_bytes for c in adoption.checkpoints),
        )
        store.delete(layout.ADOPTING)
    return Run.open(adoption.path)


def _bring(store: LocalStore, state: TrainerState, newest: Checkpoint) -> None:
    """Take the training's log over as the first attempt of the run's history."""
    history = History(store)
    history.begin(max_steps=state.max_steps, timeline=newest.timeline, first_generation=1)
    at = newest.created.timestamp()
    for record in state.log:
        said = {name: float(v) for name, v in record.items() if isinstance(v, int | float) and not isinstance(v, bool)}
        where, epoch = said.pop("step", None), said.pop("epoch", None)
        if where is not None and said:
            history.log(int(where), epoch, said, at)
    history.end("finished" if state.max_steps is not None and state.step >= state.max_steps else None)


def _numbers(store: LocalStore, run: StockRun) -> dict[str, int]:
    """The generation of each checkpoint by the name of its directory: as an interrupted adoption gave them, else in
    the order of the run.
    """
    try:
        data = store.read(layout.ADOPTING, limit=layout.SMALL_FILE_LIMIT)
        return {place.name: place.generation for place in msgspec.json.decode(data, type=_Intent).places}
    except (OSError, *layout.NOT_JSON):
        whole = [c for c in run.checkpoints if not run.flaws(c)]
        return {_name(c): number for number, c in enumerate(whole, start=1)}


def _parent(checkpoint: Checkpoint, listed: dict[str, Checkpoint], numbers: dict[str, int]) -> int | None:
    parent = next((c for c in listed.values() if c.generation == checkpoint.parent), None)
    return numbers.get(_name(parent)) if parent is not None else None


def _name(checkpoint: Checkpoint) -> str:
    assert checkpoint.path is not None
    return checkpoint.path.name


def _is_managed(path: Path) -> bool:
    try:
        return Run.open(path).id != UNMANAGED
    except RunNotFound:
        return False
    except (KeepstepError, CheckpointCorrupt):
        return True
