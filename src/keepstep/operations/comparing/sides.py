"""What is compared: two checkpoints of one run or of two, or directories with a model in them, as they were typed."""

from __future__ import annotations

import json
import os
from collections.abc import Generator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

from msgspec.structs import replace

from keepstep import layout
from keepstep.errors import CheckpointNotFound, KeepstepError, ReferenceInvalid
from keepstep.model import Checkpoint, FileEntry, Kind, parse_name
from keepstep.paths import expanded
from keepstep.repository import MANIFEST_NAME, Repository, is_litter
from keepstep.run import Run, holds_run, open_run
from keepstep.stock import STATE_NAME, UNMANAGED, TrainerState, read_state, settings_of
from keepstep.stores import store_at

WHY = "being compared"
ARGUMENTS = "arguments"
_CONFIGS = {"model config": "config.json", "adapter config": "adapter_config.json"}


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two: a checkpoint, with what its files say of arguments and configs among its fingerprint; `run` is
    None where it is a directory by itself.
    """

    checkpoint: Checkpoint
    run: Run | None

    @property
    def path(self) -> Path:
        """Where it lies."""
        assert self.checkpoint.path is not None
        return self.checkpoint.path

    @property
    def committed(self) -> bool:
        """True where a manifest says what wrote it."""
        return self.checkpoint.run_id not in ("", UNMANAGED)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; the size in bytes."""
        one = self.checkpoint
        return {
            "run": None if self.run is None else str(self.run.path),
            "run_id": one.run_id if self.committed else None,
            "path": str(self.path),
            "step": one.step,
            "generation": one.generation if self.committed else None,
            "kind": one.kind.value,
            "size_bytes": one.size_bytes,
            "damaged": bool(one.damage),
        }


def both_sides(words: Sequence[str]) -> tuple[Side, Side]:
    """`RUN A B`, `RUN_A A RUN_B B`, two paths, or a path and `RUN B`. Raises what opening a run and looking up a
    reference raise, ReferenceInvalid for any other number of words.
    """
    match words:
        case [first, second]:
            return by_path(expanded(first)), by_path(expanded(second))
        case [first, run, second] if expanded(run).is_dir() and not holds_run(expanded(first)):
            return by_path(expanded(first)), _in_run(open_run(expanded(run)), second)
        case [run, first, second]:
            opened = open_run(expanded(run))
            return _in_run(opened, first), _in_run(opened, second)
        case [run, first, other, second]:
            return _in_run(open_run(expanded(run)), first), _in_run(open_run(expanded(other)), second)
        case _:
            raise ReferenceInvalid(
                f"{len(words)} words don't name two checkpoints", hint="Write RUN A B, RUN A RUN B, or two paths."
            )


@contextmanager
def held(*sides: Side) -> Generator[None]:
    """Inside the block the checkpoints of managed runs stay where they are. Raises CheckpointNotFound."""
    with ExitStack() as stack:
        for side in sides:
            if side.run is not None:
                stack.enter_context(side.run.reading([side.checkpoint], WHY))
        for side in sides:
            if not side.path.is_dir():
                raise CheckpointNotFound(f"{side.path} went away in this moment", hint="Look again: keepstep ls RUN")
        yield


def by_path(path: Path) -> Side:
    """A checkpoint by its path, of its run where it is of one; the newest of a run's directory; any other directory by
    what lies in it. Raises CheckpointNotFound.
    """
    if not path.is_dir():
        raise CheckpointNotFound(
            f"{path} is no directory", hint="Give a run and two references, or the paths of two directories."
        )
    home = Path(os.path.realpath(path))
    if holds_run(home):
        return _side(open_run(path), "latest")
    # One that lies aside has its run above `.keepstep`.
    above = [home.parents[place + 1] for place, one in enumerate(home.parents) if one.name == layout.META]
    for run in (*above, home.parent):
        if (parse_name(home.name) is not None or above) and holds_run(run):
            try:
                return _side(open_run(run), str(home))
            except KeepstepError:
                break  # it lies there, and is none of that run's
    return Side(_with_settings(_alone(home), home), None)


def _in_run(run: Run, reference: str) -> Side:
    try:
        return _side(run, reference)
    except CheckpointNotFound:
        if not (path := expanded(reference)).is_dir():
            raise
    return by_path(path)


def _side(run: Run, reference: str) -> Side:
    checkpoint = run.find(reference, aside=True)
    assert checkpoint.path is not None
    return Side(_with_settings(checkpoint, checkpoint.path), run)


def _with_settings(checkpoint: Checkpoint, path: Path) -> Checkpoint:
    """The checkpoint, and what its own files say: the arguments that no manifest has, and configs."""
    said: dict[str, Any] = {}
    if ARGUMENTS not in checkpoint.fingerprint and (settings := settings_of(path)) is not None:
        said[ARGUMENTS] = dict(settings.values)
    for section, name in _CONFIGS.items():
        if (config := _json_object(path / name)) is not None:
            said[section] = config
    return replace(checkpoint, fingerprint={**checkpoint.fingerprint, **said}) if said else checkpoint


def _alone(path: Path) -> Checkpoint:
    """A directory as a checkpoint: by its manifest where it has one, else by its files."""
    if (path / MANIFEST_NAME).exists():
        return Repository(store_at(path.parent), "").read_manifest(path.name)
    entries = store_at(path).walk("")
    files = tuple(FileEntry(e.path, e.size, "") for e in entries if e.kind == "file" and not is_litter(e.path))
    # A snapshot of the Hub is links to files elsewhere.
    linked = [e.path for e in entries if e.kind == "link" and (path / e.path).is_file()]
    files += tuple(FileEntry(name, (path / name).stat().st_size, "") for name in linked)
    if not files:
        raise CheckpointNotFound(f"{path} holds no file", hint="Give a checkpoint, or a directory with a model in it.")
    state = read_state(path) if (path / STATE_NAME).is_file() else None
    known = state if isinstance(state, TrainerState) else None
    return Checkpoint(
        run_id="",
        generation=0,
        timeline=1,
        parent=None,
        step=known.step if known else 0,
        epoch=known.epoch if known else None,
        kind=Kind.FULL if any(file.path == "optimizer.pt" for file in files) else Kind.WEIGHTS,
        created=datetime.fromtimestamp(path.stat().st_mtime, UTC),
        metrics=known.metrics() if known else {},
        files=files,
        path=path,
    )


def _json_object(path: Path) -> dict[str, Any] | None:
    try:
        with open(path, "rb") as file:
            found = json.loads(file.read(layout.SMALL_FILE_LIMIT))
    except (OSError, *layout.NOT_JSON):
        return None
    return cast("dict[str, Any]", found) if isinstance(found, dict) else None
