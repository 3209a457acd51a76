"""A run whose run.json is missing or damaged, rebuilt from the manifests of its checkpoints. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec

from keepstep import layout
from keepstep.errors import CheckpointCorrupt, KeepstepError, PolicyError, RunNotFound
from keepstep.model import Checkpoint, parse_name
from keepstep.repository import Repository
from keepstep.retention import Metric, Policy, default_policy, format_spec, known_mode, parse
from keepstep.run.events import EventLog
from keepstep.run.runfile import RUN_ID, Origin, RunFile, RunFileDamaged, read_run_file, write_run_file
from keepstep.stores import LocalStore

KEEP, METRIC, MODE = "keep", "metric", "mode"
"""Members of a manifest's `written_by`: the policy under which the checkpoint was written."""
BRANCHED = "branched"
"""Member of the `written_by` of the first checkpoint of a branch: the one that it is, in the run that it came from."""
_USUAL_METRIC = "eval_loss"


class Rebuilt(msgspec.Struct, frozen=True):
    """A run file made of what the manifests say, and what is not in them.

    `why` completes "RUN ..."; `lost` is what went with the run file, in words; `others` are ids of other runs whose
    checkpoints lie in the same directory, and are none of this one's.
    """

    file: RunFile
    path: Path
    why: str
    checkpoints: int
    lost: tuple[str, ...]
    others: tuple[str, ...]

    def __str__(self) -> str:
        count = "a checkpoint" if self.checkpoints == 1 else f"{self.checkpoints} checkpoints"
        others = f"; checkpoints of run {', '.join(self.others)} beside them are left alone" if self.others else ""
        return (
            f"{self.path} {self.why}: run {self.file.run_id} is rebuilt from the manifests of {count}{others}. "
            f"Not in them, and lost where there were any: {', '.join(self.lost)}"
        )


def policy_facts(policy: Policy) -> dict[str, Any]:
    """What a manifest says of the policy in force, so that a run can be rebuilt from it."""
    metric = policy.metric
    ranked = {METRIC: metric.name, MODE: metric.mode} if metric else {}
    return {KEEP: format_spec(policy.rules), **ranked}


def read_or_rebuild(store: LocalStore) -> tuple[RunFile, Rebuilt | None]:
    """The run file, and what it was rebuilt from where it is missing or damaged and manifests can take its place.

    Raises what `read_run_file` raises.
    """
    try:
        return read_run_file(store), None
    except (RunNotFound, RunFileDamaged) as error:
        missing = isinstance(error, RunNotFound)
        found = rebuild(store, f"has {'no' if missing else 'a damaged'} {layout.RUN}")
        if found is None:
            raise
    return found.file, found


def write_rebuilt(store: LocalStore, rebuilt: Rebuilt, events: EventLog) -> RunFile:
    """Put a rebuilt run file on the disk, in the run's lock; returns the one that is there then."""
    try:
        file = read_run_file(store)  # another process may have been faster
    except (RunNotFound, RunFileDamaged):
        file = rebuilt.file
        write_run_file(store, file)
        lost = list(rebuilt.lost)
        events.append("rebuilt", run_id=file.run_id, why=rebuilt.why, checkpoints=rebuilt.checkpoints, lost=lost)
    if file.run_id != rebuilt.file.run_id:
        raise KeepstepError(f"another run has begun in {rebuilt.path} in this moment", hint="Look at it, and try anew.")
    return file


def rebuild(store: LocalStore, why: str) -> Rebuilt | None:
    """The run of a directory, as its manifests have it; None where none of them can be read.

    Of several runs it is the one that the event log names, else the one whose checkpoint was made last. Raises
    LayoutTooNew.
    """
    runs: dict[str, list[Checkpoint]] = {}
    for checkpoint in _readable(store):
        runs.setdefault(checkpoint.run_id, []).append(checkpoint)
    if not runs:
        return None
    begun = _begun(store)
    named = str(begun.get("run_id"))
    run_id = named if named in runs else max(runs, key=lambda one: max(c.created for c in runs[one]))
    mine = sorted(runs.pop(run_id), key=lambda checkpoint: checkpoint.generation)
    policy, known = _policy(mine, begun if run_id == named else {})
    created = min(checkpoint.created for checkpoint in mine)
    file = RunFile.for_policy(policy, run_id=run_id, created=created, branched=_origin(mine))
    return Rebuilt(file, store.root, why, len(mine), _lost(store, known), tuple(sorted(runs)))


def _readable(store: LocalStore) -> Iterator[Checkpoint]:
    """Checkpoints of any run that lie under their own names."""
    repository = Repository(store, "")
    for entry in store.list(""):
        parsed = parse_name(entry.path)
        if parsed is None or entry.kind != "directory":
            continue
        try:
            checkpoint = repository.read_manifest(entry.path)
        except (OSError, CheckpointCorrupt):
            continue
        if (checkpoint.kind, checkpoint.step) == parsed and re.fullmatch(RUN_ID, checkpoint.run_id):
            yield checkpoint


def _begun(store: LocalStore) -> dict[str, Any]:
    """The event with which the last run began here; empty where no event log says so."""
    found: dict[str, Any] = {}
    try:
        for event in EventLog(store).read():
            if event["event"] == "run":
                found = event
    except OSError:
        return {}
    return found


def policy_said(checkpoints: list[Checkpoint]) -> Policy:
    """The policy that the newest of these manifests names; else everything is kept."""
    return _policy(checkpoints, {})[0]


def _policy(checkpoints: list[Checkpoint], begun: dict[str, Any]) -> tuple[Policy, bool]:
    """The policy that the newest manifest names, and whether it names one; else everything is kept."""
    said = checkpoints[-1].written_by
    try:
        return Policy(parse(str(said[KEEP])), _metric(said)), True
    except (KeyError, PolicyError):
        pass
    names = {name for checkpoint in checkpoints for name in checkpoint.metrics}
    guessed = Metric(_USUAL_METRIC, known_mode(_USUAL_METRIC) or "min") if _USUAL_METRIC in names else None
    return default_policy(None, _metric(begun) or guessed), False


def _origin(checkpoints: list[Checkpoint]) -> Origin | None:
    """Where the run was branched off, as its first checkpoint says while it is there."""
    with suppress(msgspec.ValidationError):
        return msgspec.convert(checkpoints[0].written_by.get(BRANCHED), Origin | None)
    return None


def _metric(said: Any) -> Metric | None:
    name, mode = said.get(METRIC), said.get(MODE)
    return Metric(name, mode) if isinstance(name, str) and mode in ("min", "max") else None


def _lost(store: LocalStore, policy_known: bool) -> tuple[str, ...]:
    lost = ["limits"] if policy_known else ["policy and limits (all checkpoints are kept until a training sets them)"]
    if not store.exists(layout.EVENTS):
        lost = ["pins", "tags", "events", "metrics that came after their commit", *lost]
    return tuple(lost if store.exists(layout.METRICS) else ["curves", *lost])
