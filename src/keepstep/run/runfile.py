"""`.keepstep/run.json`: the identity of a run, and the policy and the limits in force."""

from __future__ import annotations

import os
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from keepstep import layout
from keepstep.errors import KeepstepError, LayoutTooNew, RunNotFound
from keepstep.model import parse_name
from keepstep.repository import MANIFEST_NAME
from keepstep.retention import Metric, Policy, format_spec, parse
from keepstep.run.limits import Limits, OnDiskFull
from keepstep.stores import LocalStore, Store, denied

FORMAT_VERSION = 1
RUN_ID = r"^[A-Za-z0-9_-]{1,64}$"


class RunFileDamaged(KeepstepError):
    """`run.json` is there, and does not say whose it is: torn, or no JSON. A wrong value is another error."""

    code = "run-file-damaged"


class _Identity(msgspec.Struct):
    format: int
    run_id: str


class Origin(msgspec.Struct, frozen=True):
    """The checkpoint that a run was branched off: the id of its run and its generation there (None: of a directory that
    is not managed), its step, and where its run lay then.
    """

    run_id: str | None
    generation: int | None
    step: int
    path: str

    def __str__(self) -> str:
        named = "" if self.run_id is None else f" (run {self.run_id}, generation {self.generation})"
        return f"step {self.step} of {self.path}{named}"


class RunFile(msgspec.Struct, frozen=True):
    """The content of `run.json`: format version, run id, creation time (UTC), policy as a spec, metric and mode; the
    limits that the last training was begun with: budget and free space in bytes, and whether others may have its
    room; and where the run was branched off.
    """

    format: int
    run_id: Annotated[str, Meta(pattern=RUN_ID)]
    created: datetime
    keep: str
    metric: str | None = None
    mode: Literal["min", "max"] | None = None
    budget: Annotated[int, Meta(gt=0)] | None = None
    min_free: Annotated[int, Meta(ge=0)] = 0
    on_disk_full: OnDiskFull = "finish"
    shared: bool = False
    branched: Origin | None = None

    @classmethod
    def for_policy(
        cls,
        policy: Policy,
        limits: Limits | None = None,
        *,
        run_id: str,
        created: datetime,
        branched: Origin | None = None,
    ) -> RunFile:
        """A run file that puts `policy`, and `limits` where there are any, in force."""
        limits = limits or Limits()
        metric = policy.metric
        return cls(
            FORMAT_VERSION,
            run_id,
            created,
            format_spec(policy.rules),
            metric.name if metric else None,
            metric.mode if metric else None,
            limits.budget,
            limits.min_free,
            limits.on_disk_full,
            limits.shared,
            branched,
        )

    def with_policy(self, policy: Policy, limits: Limits | None = None) -> RunFile:
        """The same run under another policy, and other limits where they are given."""
        limits = limits or self.limits()
        return RunFile.for_policy(policy, limits, run_id=self.run_id, created=self.created, branched=self.branched)

    def policy(self) -> Policy:
        """The policy in force. Raises PolicyError when the file was edited into nonsense."""
        metric = Metric(self.metric, self.mode) if self.metric and self.mode else None
        return Policy(parse(self.keep), metric)

    def limits(self) -> Limits:
        """The limits in force."""
        return Limits(self.budget, self.min_free, self.on_disk_full, self.shared)


def write_run_file(store: Store, file: RunFile) -> None:
    """Create or replace the run file, durably."""
    store.replace(layout.RUN, run_file_bytes(file))


def run_file_bytes(file: RunFile) -> bytes:
    """What the run file holds."""
    return msgspec.json.format(msgspec.json.encode(file), indent=1) + b"\n"


def read_run_file(store: LocalStore) -> RunFile:
    """The run file. Raises RunNotFound, RunFileDamaged, LayoutTooNew, or KeepstepError when it can't be read."""
    where = store.local_path(layout.RUN)
    try:
        data = store.read(layout.RUN, limit=layout.SMALL_FILE_LIMIT)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_found(store) from error
    except PermissionError as error:
        raise denied(where, error, write=False) from error
    except OSError as error:
        raise KeepstepError(
            f"{where} can't be read: {error.strerror or error}", hint="Nothing is begun in a run that can't be read."
        ) from error
    try:
        version = msgspec.json.decode(data, type=_Identity).format
    except layout.NOT_JSON as error:
        raise RunFileDamaged(
            f"{where} is damaged: {error}",
            hint="No manifest of a checkpoint is there to rebuild the run from. Delete it to begin a new run.",
        ) from error
    if version > FORMAT_VERSION:
        raise LayoutTooNew(
            f"{where} has format {version}; this keepstep reads up to {FORMAT_VERSION}",
            hint="Upgrade it: pip install -U keepstep",
        )
    try:
        return msgspec.json.decode(data, type=RunFile)
    except layout.NOT_JSON as error:
        raise KeepstepError(
            f"{where} is damaged: {error}",
            hint="Put that right by hand; or have the run rebuilt from its checkpoints' manifests: "
            f"keepstep repair {store.root}",
        ) from error


def is_run(path: str | os.PathLike[str]) -> bool:
    """True for a directory with a run.json, or with a checkpoint that has a manifest: a run that can be rebuilt."""
    place = Path(path)
    try:
        if (place / layout.RUN).is_file():
            return True
        return holds_manifest(place, [name for name in os.listdir(place) if parse_name(name) is not None])
    except OSError:
        return False


def holds_manifest(place: str | os.PathLike[str], names: Iterable[str]) -> bool:
    """True when one of the checkpoint directories `names` in a directory has a manifest. Raises OSError."""
    found = list(names)
    if not found:
        return False
    # By the directory, and without a stat: a search asks for a hundred thousand that are not there.
    directory = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        likely = [name for name in found if os.access(f"{name}/{MANIFEST_NAME}", os.F_OK, dir_fd=directory)]
    finally:
        os.close(directory)
    return any(os.path.isfile(os.path.join(place, name, MANIFEST_NAME)) for name in likely)


def _not_found(store: LocalStore) -> RunNotFound:
    if not store.root.is_dir():
        return RunNotFound(f"{store.root} is no directory", hint="Give the output_dir of a training run.")
    if not os.access(store.root, os.R_OK | os.X_OK):
        return RunNotFound(str(denied(store.root).message), hint=denied(store.root).hint)
    runs = sorted(child.name for child in store.root.iterdir() if child.is_dir() and is_run(child))
    if runs:
        return RunNotFound(f"{store.root} holds no run itself", hint=f"There are runs below it: {', '.join(runs[:20])}")
    if parse_name(store.root.name) is not None and is_run(store.root.absolute().parent):
        return RunNotFound(f"{store.root} is one checkpoint, not a run", hint=f"Give the run: {store.root.parent}")
    stock = [child.name for child in store.root.iterdir() if parse_name(child.name)]
    if stock:
        return RunNotFound(
            f"{store.root} has {len(stock)} checkpoints that keepstep did not commit, and no run",
            hint="A training with keepstep.attach(trainer) in this directory makes a run of it.",
        )
    return RunNotFound(f"{store.root} holds no run", hint="Give the output_dir of a training with keepstep.attach.")


def holds_stock(store: LocalStore) -> bool:
    """True for a directory in which a directory is called like a checkpoint."""
    return any(entry.kind == "directory" and parse_name(entry.path) is not None for entry in store.list(""))
