"""What an export will read and write, before anything is verified or written."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from keepstep.errors import SettingsError
from keepstep.formats.dcp_metadata import METADATA, DcpMetadata, UnreadableMetadata, read_metadata
from keepstep.formats.dcp_tensors import described
from keepstep.formats.safetensors_header import FLOATING, TensorEntry, tensors_in
from keepstep.layout import NOT_JSON
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.choosing import asks_for_best, choose
from keepstep.operations.export.errors import ExportRefused, Unreadable
from keepstep.operations.export.files import ADAPTER_CONFIG, GIVE, OTHERS, ModelFiles, lendable, model_files
from keepstep.operations.export.request import HEADER_DTYPES, TORCH_DTYPES, Request
from keepstep.operations.export.target import Target
from keepstep.operations.export.zero_files import check_ranks
from keepstep.paths import expanded
from keepstep.run import Run

READ_TO_PLAN = 2**20
"""Bytes up to which a file of a checkpoint that lies elsewhere is brought before anything is decided: configs."""
SMALL_FILES = 64 * 1024
"""Bytes of card, marker and rewritten configs, generously."""


@dataclass(frozen=True, slots=True)
class ExportPlan:
    """An export that can be made as asked: from which checkpoints, which files, where to.

    `bytes_written` counts everything that lies on the disk at the worst moment; None where the base model is not in a
    local directory, so that nobody knows yet.
    """

    run: Run
    request: Request
    members: tuple[Checkpoint, ...]
    files: ModelFiles
    target: Target
    bytes_written: int | None
    passed_over: tuple[Checkpoint, ...] = ()
    """Where the best was asked for, what would have ranked before it and is known to be damaged."""
    needed: tuple[tuple[FileEntry, ...], ...] = ()
    """The files of each member that are read: what lies elsewhere has these brought, and no others."""

    @property
    def not_the_best(self) -> str:
        """Why what is exported is not the best by the metric, as a clause; empty where it is, or was not asked for."""
        metric = self.run.policy.metric
        if metric is None or not self.passed_over:
            return ""
        scores = [(c.step, metric.value(c.metrics)) for c in self.passed_over]
        steps = ", ".join(f"step {step} ({value:.6g})" for step, value in scores if value is not None)
        ranks, was = ("rank", "were") if len(scores) > 1 else ("ranks", "was")
        return f"the best of those that hold: {steps} {ranks} before by {metric.name}, but {was} found damaged"

    @property
    def source(self) -> Checkpoint:
        """The checkpoint that config and tokenizer come from; without an average, all of it."""
        return self.members[0]

    @property
    def directory(self) -> Path:
        """Where the source lies."""
        assert self.source.path is not None
        return self.source.path

    @property
    def kind(self) -> str:
        """`adapter`, `merged model` or `model`: what the export will be."""
        if self.request.merge:
            return "merged model"
        return "adapter" if self.files.adapter else "model"

    @property
    def copies(self) -> bool:
        """True when weights files are copied as they are."""
        asked = self.request
        changed = asked.dtype or asked.max_shard_size or asked.merge or asked.average
        return not (changed or self.files.pickled or self.files.shards or self.files.zero)

    @property
    def others(self) -> tuple[FileEntry, ...]:
        """The files beside the weights that are copied."""
        return self._beside(self.files.others)

    @property
    def lent(self) -> tuple[FileEntry, ...]:
        """The files that the checkpoint has not, and that are copied from `request.config_from`."""
        return self._beside(self.files.lent)

    def _beside(self, files: Iterable[FileEntry]) -> tuple[FileEntry, ...]:
        return tuple(f for f in files if not (self.request.merge and f.path == ADAPTER_CONFIG))

    def file(self, name: str) -> Path:
        """Where a config, or another file beside the weights, is read: in the checkpoint, or where it is lent from."""
        lent = self.request.config_from
        return (lent if lent and any(f.path == name for f in self.files.lent) else self.directory) / name

    @property
    def left(self) -> dict[str, str]:
        """Paths of what stays behind, with a reason."""
        merged = {ADAPTER_CONFIG: "of the adapter; the merged model has a config.json"} if self.request.merge else {}
        return self.files.left | merged

    @property
    def read_bytes(self) -> int:
        """Bytes that are verified before anything is read."""
        return sum(entry.size for files in self.needed for entry in files)

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "directory": str(self.target.path),
            "steps": [member.step for member in self.members],
            "passed_over": [checkpoint.step for checkpoint in self.passed_over],
            "kind": self.kind,
            "dtype": self.request.dtype,
            "files": [
                {"path": entry.path, "size_bytes": entry.size}
                for entry in (*self.others, *self.lent, *self.files.indexes, *self.files.weights)
            ],
            "weights": "copied" if self.copies else "written anew",
            "left_out": self.left,
            "size_bytes": self.bytes_written,
            "free_bytes": self.target.free_bytes,
            "replaces": self.target.replaces,
            "checked": self.request.check,
        }


def plan_export(run: Run, request: Request) -> ExportPlan:
    """What an export of a run will be. Reads manifests and headers, and changes nothing.

    Raises CheckpointNotFound, ExportRefused, SettingsError.
    """
    members = choose(run, request)
    lent = _lent(request)
    files = [model_files(member, request.include if member is members[0] else (), lent) for member in members]
    _check_alike(members, files)
    for member, found in zip(members, files, strict=True):
        run.bring(
            member, (entry for entry in found.read if entry.size <= READ_TO_PLAN or entry.path.endswith(METADATA))
        )
    for member, found in zip(members, files, strict=True):
        _check_shards(member, found)
        if found.zero:
            check_ranks(member, found.zero, found.weights)
    _check_merge(request, members[0], files[0])
    target = Target.of(request.directory, run.path, force=request.force)
    chosen = replace(files[0], left=files[0].left | _added_since(run, members[0]))
    passed = _passed_over(run, request, members)
    plan = ExportPlan(
        run,
        request,
        members,
        chosen,
        target,
        _bytes(request, members, files),
        passed,
        tuple(found.read for found in files),
    )
    target.check_room(plan.bytes_written or 0)
    return plan


def _passed_over(run: Run, request: Request, members: Sequence[Checkpoint]) -> tuple[Checkpoint, ...]:
    """What is damaged and would be exported, were it not, where the best are asked for."""
    if not asks_for_best(request):
        return ()
    found = [checkpoint for member in members for checkpoint in run.spoiled_before(member)]
    return tuple({checkpoint.generation: checkpoint for checkpoint in found}.values())


def _added_since(run: Run, source: Checkpoint) -> dict[str, str]:
    """What lies in the directory and is in no manifest, with the reason why it stays behind."""
    try:
        return dict.fromkeys((entry.path for entry in run.repository.added(source)), OTHERS)
    except OSError:
        return {}


def _check_alike(members: Sequence[Checkpoint], files: Sequence[ModelFiles]) -> None:
    for member, found in zip(members[1:], files[1:], strict=True):
        if found.adapter != files[0].adapter:
            kinds = [
                f"step {m.step} is {'an adapter' if f.adapter else 'a model'}"
                for m, f in zip(members, files, strict=True)
            ]
            raise ExportRefused(f"adapters and models can't be averaged: {', '.join(kinds)}")
        if found.pickled or files[0].pickled:
            pickled = member if found.pickled else members[0]
            raise ExportRefused(
                f"step {pickled.step} has its weights in a file of torch.save; only safetensors files are averaged",
                hint="Export it alone: that writes safetensors.",
            )


def _check_merge(request: Request, source: Checkpoint, files: ModelFiles) -> None:
    if request.merge and not files.adapter:
        raise ExportRefused(
            f"step {source.step} is a whole model: there is no adapter to merge", hint="Leave --merge out."
        )
    if not files.adapter and request.base:
        raise ExportRefused(f"step {source.step} is a whole model, and has no base", hint="Leave --base out.")
    if files.adapter and files.pickled:
        raise ExportRefused(
            f"step {source.step} has its adapter in a file of torch.save", hint="Train with save_safetensors=True."
        )


def base_of(plan: ExportPlan) -> str:
    """The model that an adapter belongs to: `request.base`, or what its config says. Raises ExportRefused."""
    if plan.request.base is not None:
        return os.path.expanduser(plan.request.base) if _is_path(plan.request.base) else plan.request.base
    named = read_json(plan.file(ADAPTER_CONFIG)).get("base_model_name_or_path")
    if not isinstance(named, str) or not named:
        raise ExportRefused(
            f"{ADAPTER_CONFIG} of step {plan.source.step} does not say which base model it belongs to",
            hint="Say it: --base DIR_OR_NAME",
        )
    return named


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object in a file. Raises OSError, ExportRefused for anything else."""
    try:
        found = json.loads(path.read_bytes())
    except NOT_JSON as error:
        raise Unreadable(f"{path} is no JSON") from error
    if not isinstance(found, dict):
        raise Unreadable(f"{path} is no JSON object")
    return found  # pyright: ignore[reportUnknownVariableType]


def _lent(request: Request) -> tuple[FileEntry, ...]:
    """The files of `config_from` that a model is loaded with. Raises SettingsError."""
    if request.config_from is None:
        return ()
    home = expanded(request.config_from)
    if not home.is_dir():
        raise SettingsError(f"{home} is no directory", hint="--config-from takes one with a config.json in it.")
    with os.scandir(home) as entries:
        files = [FileEntry(entry.name, entry.stat().st_size, "") for entry in entries if entry.is_file()]
    return tuple(sorted(filter(lendable, files), key=lambda entry: entry.path))


def _check_shards(member: Checkpoint, files: ModelFiles) -> None:
    """Every rank's file must be there as the metadata says, and an adapter's config with an adapter. Raises Unreadable,
    ExportRefused.
    """
    if not files.shards or member.path is None:
        return
    home = member.path / files.shards
    metadata = metadata_of(home)
    for name, due in metadata.extents.items():
        try:
            size = os.path.getsize(home / name)
        except FileNotFoundError as error:
            raise Unreadable(f"step {member.step} is incomplete: {described(name)} is missing") from error
        if size < due:
            raise Unreadable(f"step {member.step} is incomplete: {described(name)} has {size:,} of {due:,} bytes")
    adapts = bool(metadata.tensors) and all(name.startswith("base_model.") for name in metadata.tensors)
    if adapts and not files.adapter:
        raise ExportRefused(f"step {member.step} has an adapter but no {ADAPTER_CONFIG}", hint=GIVE)
    if files.adapter and not adapts:
        raise ExportRefused(
            f"step {member.step} is a whole model, and {ADAPTER_CONFIG} is of an adapter",
            hint="Name a directory of the model itself: --config-from DIR",
        )


def metadata_of(home: Path) -> DcpMetadata:
    """What the ranks' files in a directory hold. Raises Unreadable, OSError."""
    try:
        return read_metadata(home)
    except UnreadableMetadata as error:
        raise Unreadable(f"{home / METADATA} {error}") from error


def headers(directory: Path, entries: Sequence[FileEntry]) -> dict[str, TensorEntry]:
    """The tensors of safetensors files by name. Raises ExportRefused."""
    return dict(_tensors([directory / entry.path for entry in entries]))


def tensors_of_base(paths: Iterable[Path]) -> list[TensorEntry]:
    """The tensors of a base's safetensors files. Raises ExportRefused."""
    pointer = "Is it a pointer that `git lfs pull` replaces? Or name the base: --base DIR_OR_NAME"
    return [entry for _, entry in _tensors(paths, hint=pointer)]


def _tensors(paths: Iterable[Path], hint: str = "") -> list[tuple[str, TensorEntry]]:
    found: list[tuple[str, TensorEntry]] = []
    for path in paths:
        try:
            found += tensors_in(path).items()
        except ValueError as error:
            raise Unreadable(f"{path} {error}", hint=hint) from error
    return found


def stored_dtypes(tensors: dict[str, TensorEntry]) -> str:
    """The floating dtypes that are there, as torch names them: `bfloat16`, `float16, float32`."""
    names = {HEADER_DTYPES[short]: TORCH_DTYPES[short] for short in HEADER_DTYPES}
    found = {entry.dtype for entry in tensors.values() if entry.dtype in FLOATING}
    return ", ".join(sorted(names.get(code, code) for code in found)) or "none"


def _bytes(request: Request, members: Sequence[Checkpoint], files: Sequence[ModelFiles]) -> int | None:
    """Bytes on disk at the worst moment: the export, and what an average needs on the way."""
    others = sum(entry.size for entry in (*files[0].others, *files[0].lent)) + SMALL_FILES
    floating = HEADER_DTYPES[request.dtype] if request.dtype else None
    if request.merge:
        return _merged_bytes(request, members, files[0], others, floating)
    path = members[0].path
    if files[0].shards and path is not None:
        sharded = metadata_of(path / files[0].shards).tensors.values()
        weights = sum(TensorEntry(one.dtype, one.shape).nbytes(floating) for one in sharded)
    elif files[0].zero:  # of each parameter 12 bytes lie there; 4 are put together, and 4 exported
        weights = sum(found.weight_bytes for found in files)
    elif files[0].pickled or path is None or not (path / files[0].weights[0].path).is_file():
        weights = files[0].weight_bytes * (2 if request.dtype == "fp32" else 1)
    else:
        weights = sum(e.nbytes(floating) for e in headers(path, files[0].weights).values())
    trials = files[0].weight_bytes if request.evaluates else 0
    return others + weights + trials


def _merged_bytes(
    request: Request, members: Sequence[Checkpoint], files: ModelFiles, others: int, floating: str | None
) -> int | None:
    base = expanded(request.base) if request.base else None
    if base is None and members[0].path is not None:
        lent = request.config_from if any(f.path == ADAPTER_CONFIG for f in files.lent) else None
        config = read_json((lent or members[0].path) / ADAPTER_CONFIG)
        base = Path(str(config.get("base_model_name_or_path") or ""))
    weights = sorted(base.glob("*.safetensors")) if base is not None and base.is_dir() else []
    if not weights:
        return None
    tensors = tensors_of_base(weights)
    between = sum(entry.nbytes("F32") for entry in tensors) * len(members) if len(members) > 1 else 0
    return others + sum(entry.nbytes(floating) for entry in tensors) + between


def _is_path(base: str) -> bool:
    return base.startswith((".", "/", "~")) or Path(base).is_dir()
