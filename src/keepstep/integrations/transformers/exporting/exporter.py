"""`keepstep.export`: a checkpoint, merged, cast, resharded or averaged as asked, checked, and published in one step."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from keepstep.integrations.hub import Destination, push_export, ready
from keepstep.integrations.transformers.exporting.building import Built, build
from keepstep.integrations.transformers.exporting.checking import check_export
from keepstep.integrations.transformers.exporting.tensors import weights_below
from keepstep.integrations.transformers.exporting.zero import GATHERED, gathered
from keepstep.mirror import open_anywhere
from keepstep.model import Checkpoint
from keepstep.operations.export.card import card
from keepstep.operations.export.choosing import note_exported, verify
from keepstep.operations.export.configs import adjust
from keepstep.operations.export.copying import copy_files
from keepstep.operations.export.facts import facts_of
from keepstep.operations.export.files import CARD
from keepstep.operations.export.holding import gone, went_away, with_plan
from keepstep.operations.export.marker import MARKER, files_below, seal, write_marker
from keepstep.operations.export.plan import ExportPlan, headers, stored_dtypes
from keepstep.operations.export.report import Check, Export
from keepstep.operations.export.request import Dtype, Evaluate, Request, Soup
from keepstep.operations.export.watching import Unwatched, Watcher
from keepstep.retention import Mode
from keepstep.run import Reference, Run
from keepstep.units import format_size, parse_size

SCRATCH = ".scratch"
"""A directory of an export while it is made: members that are merged, averages on trial."""

HEADER_BYTES = 2**20
"""What the header of a weights file may add to its tensors, generously."""

FACTORS = (
    "the factors of the adapters were averaged, and the product of two means is not the mean of the products; "
    "--merge averages the merged weights instead"
)
"""What a mean of adapters is, and is not."""


def export(
    run: Run | str | os.PathLike[str],
    directory: str | os.PathLike[str],
    *,
    reference: Reference | None = None,
    dtype: Dtype | None = None,
    max_shard_size: str | None = None,
    merge: bool = False,
    base: str | os.PathLike[str] | None = None,
    base_name: str | None = None,
    config_from: str | os.PathLike[str] | None = None,
    average: str | None = None,
    soup: Soup = "uniform",
    eval_data: str | os.PathLike[str] | None = None,
    evaluate: Evaluate | None = None,
    mode: Mode = "min",
    include: Sequence[str] = (),
    force: bool = False,
    check: bool = True,
    push: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
) -> Export:
    """Write a clean model directory from a checkpoint of a run, checked against it; returns what was made.

    `reference` is `"best"` by default, or a step, a tag, a path. `dtype` ("bf16", "fp16", "fp32") casts the weights,
    `max_shard_size` ("5GB") bounds each file, `merge` puts an adapter into its base (`base`, or the one that its
    config names; `base_name` is what an exported adapter says instead). `config_from` is a directory with the config
    and the tokenizer of a sharded checkpoint that has none, as stock's. `average` ("best:3", or "300,200") exports
    a mean of weights; `soup="greedy"` takes in only what makes it better. Averages are evaluated by `evaluate`, which
    takes a model and returns a number (lower is better, unless `mode="max"`), or by the loss per token on `eval_data`.
    `include` are patterns of further files. `force` replaces an earlier export, and nothing else. `push` uploads the
    result to that repository of the hub.

    A best that is found damaged gives way to the next, which is said, in the result's notes and on the card too.
    Raises CheckpointNotFound, CheckpointCorrupt, ExportRefused, SettingsError before anything is written,
    ExportUnequal where the result is not what it must be (nothing is published), StorageError, PushFailed.
    """
    opened = run if isinstance(run, Run) else open_anywhere(run)
    request = Request(
        directory=Path(directory),
        reference="best" if reference is None and average is None else reference,
        dtype=dtype,
        max_shard_size=None if max_shard_size is None else parse_size(max_shard_size, "max_shard_size"),
        merge=merge,
        base=None if base is None else os.fspath(base),
        base_name=base_name,
        config_from=None if config_from is None else Path(config_from),
        average=average,
        soup=soup,
        eval_data=None if eval_data is None else Path(eval_data),
        evaluate=evaluate,
        mode=mode,
        include=tuple(include),
        force=force,
        check=check,
    )
    destination = None if push is None else Destination.of(push, private=private, revision=revision)

    def carried_out(plan: ExportPlan) -> Export:
        if destination is not None:
            ready(destination, plan)
        return carry_out(plan)

    exported = with_plan(opened, request, carried_out)
    return exported if destination is None else push_export(exported, destination)


def carry_out(plan: ExportPlan, watcher: Watcher | None = None) -> Export:
    """Do what was planned; the caller holds what is read in its place (`with_plan`). Raises as `export` does."""
    try:
        return _carry_out(plan, watcher or Unwatched())
    except Exception as error:
        if gone(plan):
            raise went_away(plan) from error
        raise


def _carry_out(plan: ExportPlan, seen: Watcher) -> Export:
    for member, files in zip(plan.members, plan.needed, strict=True):
        seen.describe(f"bringing step {member.step}")
        plan.run.bring(member, files, seen.advance)
    verify(plan.run, plan.members, plan.needed, lambda c: seen.describe(f"verifying step {c.step}"), seen.advance)
    with plan.target.staged() as staging:
        seen.describe("copying")
        copy_files(plan.directory, plan.others, staging, seen.advance)
        for entry in plan.lent:
            shutil.copyfile(plan.file(entry.path), staging / entry.path)
        scratch = staging / SCRATCH
        scratch.mkdir()
        source = gathered(plan, scratch, seen)
        built = build(source, staging, scratch, seen)
        notes = adjust(staging, dtype=built.dtype_name, base_name=plan.request.base_name)
        if built.average is not None and len(built.average.steps) > 1 and plan.kind == "adapter":
            notes.append(FACTORS)
        if source is not plan:
            notes.append(GATHERED)
        if plan.not_the_best:
            notes.append(plan.not_the_best)
        seen.describe("checking")
        check = check_export(source, staging, built) if plan.request.check else None
        shutil.rmtree(scratch)
        exported = _described(plan, staging, check, built, notes)
    note_exported(plan.run, exported.members, exported.path, exported.kind)
    return exported


def _described(plan: ExportPlan, staging: Path, check: Check | None, built: Built, notes: list[str]) -> Export:
    """Put card and marker into the directory; returns the account of it all."""
    weights = built.copied or seal(staging, [path.name for path in weights_below(staging)])
    tensors = headers(staging, weights)
    largest, limit = max(entry.size for entry in weights), plan.request.max_shard_size
    if limit is not None and largest > limit + HEADER_BYTES:
        why = "an adapter is one file always" if plan.kind == "adapter" else "a tensor is never split"
        notes.append(f"the largest weights file has {format_size(largest)}, more than was asked for: {why}")
    exported = Export(
        path=plan.target.path,
        members=_members(plan, built),
        files=weights,
        kind=plan.kind,
        dtype=stored_dtypes(tensors),
        parameters=sum(entry.elements for entry in tensors.values()),
        check=check,
        average=built.average,
        notes=tuple(notes),
        left_out=tuple(sorted(plan.left)),
    )
    (staging / CARD).write_text(card(plan, exported), encoding="utf-8")
    known = {entry.path for entry in weights}
    others = seal(staging, [path for path in files_below(staging) if path not in known])
    files = tuple(sorted((*weights, *others), key=lambda entry: entry.path))
    write_marker(staging, facts_of(plan, exported), files)
    return replace(exported, files=(*files, *seal(staging, [MARKER])))


def _members(plan: ExportPlan, built: Built) -> tuple[Checkpoint, ...]:
    """The checkpoints that the weights are made of: a greedy soup leaves some out."""
    if built.average is None:
        return plan.members
    by_step = {member.step: member for member in plan.members}
    return tuple(by_step[step] for step in built.average.steps)
