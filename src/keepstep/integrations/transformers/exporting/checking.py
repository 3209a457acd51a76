"""An export is loaded by stock code and compared with its source before anybody sees it."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from keepstep.engine import IMPRINT_NAME, Imprint
from keepstep.integrations.transformers.exporting.averaging import Mean
from keepstep.integrations.transformers.exporting.building import Built
from keepstep.integrations.transformers.exporting.merging import ROUNDED
from keepstep.integrations.transformers.exporting.models import CannotLoad, load_base, load_model, put_adapter
from keepstep.integrations.transformers.exporting.portrait import TOKENS, Portrait, compare, digest, outputs_of, portray
from keepstep.integrations.transformers.exporting.shard_imprints import memory_of_shards
from keepstep.integrations.transformers.exporting.tensors import TensorFiles, cast, tensors_in, weights_below
from keepstep.integrations.transformers.resuming.found import Found, compared
from keepstep.integrations.transformers.resuming.watched import model_state
from keepstep.integrations.transformers.setup.messages import listed
from keepstep.operations.export.configs import means_the_same
from keepstep.operations.export.errors import ExportRefused, ExportUnequal
from keepstep.operations.export.files import ADAPTER_CONFIG
from keepstep.operations.export.plan import ExportPlan, base_of
from keepstep.operations.export.report import Check, Forward

UNSHARDED = "a forward pass of the source: no stock class loads what ranks wrote"
ALONE = f"a forward pass on {TOKENS} tokens gives finite output; the source, the same files, was not loaded beside it"
CONFIGS = ("config.json", "generation_config.json", ADAPTER_CONFIG)
"""What of an export beside the weights decides what a model computes."""
Portraits = Callable[[Path], tuple[Portrait, str]]
"""Loads what is in a directory; returns its portrait and the class that loaded it."""


def check_export(plan: ExportPlan, staging: Path, built: Built) -> Check:
    """Compare every tensor with what it must be, load the export by stock code, and let it compute.

    Raises ExportUnequal.
    """
    said = "equal to the source's, bit for bit"
    if built.cast_to is not None:
        said = f"equal to the source's cast to {str(built.cast_to).removeprefix('torch.')}, bit for bit"
    if built.average is not None:
        said = "equal to the mean, computed once more, bit for bit"
    count = _check_files(plan, staging, built)
    try:
        if plan.request.merge:
            check = _check_merged(plan, staging, built)
        elif built.average is not None:
            check = _check_loading(plan, staging, "the average")
        elif plan.files.shards:
            check = _check_loading(plan, staging, "the export")
            memory = memory_of_shards(plan.directory, plan.files.shards)
            check = replace(check, untried=check.untried or UNSHARDED, memory=memory)
        else:
            check = _check_copied(plan, staging) if built.copied else None
            check = check or _check_against(_portraits(plan), plan.directory, staging, built.cast_to)
        if (built.average is not None or plan.request.merge) and not plan.files.shards:
            check = replace(check, memory=_memory_of_members(plan, built))
    except CannotLoad as error:
        check = Check("", 0, "", untried=f"loading: {error}")
    if plan.request.merge and built.average is None:
        said = f"equal to the merged ones cast to {str(built.cast_to).removeprefix('torch.')}, bit for bit"
    return replace(check, tensors=count or check.tensors, compared=said, merge=built.merged)


def _check_files(plan: ExportPlan, staging: Path, built: Built) -> int:
    """Compare the tensors in the files; returns how many, 0 where stock code wrote them from memory."""
    if built.average is not None:
        members = [tensors_in(home) for home in built.averaged]
        with Mean(members, built.cast_to) as mean, TensorFiles(weights_below(staging)) as after:
            return _compare_files(mean.names, mean.get, after)
    if built.copied:  # each was read back against the digest of the source's
        with TensorFiles(weights_below(staging)) as after:
            return len(after.names)
    if built.expected is not None or plan.files.pickled:
        return 0
    with tensors_in(plan.directory) as before, TensorFiles(weights_below(staging)) as after:
        names = [name for name in before.names if name not in built.twice]
        return _compare_files(names, lambda name: cast(name, before.get(name), built.cast_to), after)


def _compare_files(names: list[str], expected: Callable[[str], torch.Tensor], after: TensorFiles) -> int:
    if set(names) != set(after.names):
        strange = sorted(set(names) ^ set(after.names))
        raise ExportUnequal(f"the export has other tensors than its source: {', '.join(strange[:5])}")
    for name in names:
        if digest(expected(name)) != digest(after.get(name)):
            raise ExportUnequal(f"{name} has other values in the export than in its source")
    return len(names)


def _check_copied(plan: ExportPlan, staging: Path) -> Check | None:
    """Load copies of the source's files, once: the source would give the same. None where it might not, because its
    config is another, or the model is not known to be what was in memory when it was saved.
    """
    imprint = _whole_imprint(plan.directory)
    if imprint is None or not all(means_the_same(plan.directory / name, staging / name) for name in CONFIGS):
        return None
    try:
        with _loaded(plan, staging) as (model, kind), torch.no_grad():
            found = compared(imprint.model, model_state(model))
            outputs = outputs_of(model) if found.total and not found.wrong else None
    except CannotLoad:
        raise
    except Exception:  # models take inputs of all kinds; whether the source loads, and takes these, is seen there
        return None
    if outputs is None or not bool(torch.isfinite(outputs).all()):
        return None
    return Check(kind, found.total, "", memory=_as_in_memory(found), computed=ALONE)


def _check_merged(plan: ExportPlan, staging: Path, built: Built) -> Check:
    after, kind = _portraits(plan)(staging)
    if built.expected is not None:
        _same_digests(built.expected, after)
    check = Check(kind, len(after.digests), "", untried=after.why)
    if built.outputs is None or after.outputs is None:
        return check
    forward = compare(built.outputs, after.outputs, relative=ROUNDED.get(built.cast_to or torch.float32))
    _must_pass(forward, "the export gives other output than base and adapter")
    return replace(check, forward=forward)


def _check_loading(plan: ExportPlan, staging: Path, what: str) -> Check:
    after, kind = _portraits(plan)(staging)
    if after.outputs is not None and not bool(torch.isfinite(after.outputs).all()):
        raise ExportUnequal(f"{what} gives outputs that are not finite numbers")
    return Check(kind, len(after.digests), "", untried=after.why)


def _check_against(portrait: Portraits, source: Path, staging: Path, dtype: torch.dtype | None) -> Check:
    before, _ = portrait(source)
    try:
        after, kind = portrait(staging)
    except ExportRefused as error:
        raise ExportUnequal(error.message) from error
    if dtype is None:
        _same_digests(before, after)
    if before.outputs is None:
        return Check(kind, len(after.digests), "", untried=before.why, memory=before.memory)
    if after.outputs is None:
        raise ExportUnequal(f"the source gives an output and the export does not: {after.why}")
    forward = compare(before.outputs, after.outputs, relative=0.0 if dtype is None else None)
    _must_pass(forward, "the export gives other output than its source")
    return Check(kind, len(after.digests), "", forward, memory=before.memory)


def _must_pass(forward: Forward, otherwise: str) -> None:
    if not forward.passes:
        raise ExportUnequal(f"{otherwise}: {forward.describe()}")


def _portraits(plan: ExportPlan) -> Portraits:
    """How to load and portray what is exported."""

    def portrayed(directory: Path) -> tuple[Portrait, str]:
        with _loaded(plan, directory, merged=plan.request.merge) as (model, kind):
            return replace(portray(model), memory=_memory(model, directory)), kind

    return portrayed


@contextmanager
def _loaded(plan: ExportPlan, directory: Path, *, merged: bool = False) -> Iterator[tuple[Any, str]]:
    """A whole model, or the base with an adapter on it, and the class that loaded it; let go of afterwards."""
    if plan.files.adapter and not merged:
        model: Any = put_adapter(load_base(base_or_why(plan), directory, local=True)[0], directory)
        kind = type(model).__name__
    else:
        model, kind = load_model(directory)
    try:
        yield model, kind
    finally:
        del model
        gc.collect()


def _memory_of_members(plan: ExportPlan, built: Built) -> str:
    """How each checkpoint that went in, loaded by stock code, compares with what was in memory when it was saved."""
    steps = [plan.source.step] if built.average is None else built.average.steps
    found: dict[int, str] = {}
    for member in plan.members:
        directory = member.path
        if member.step in steps and directory is not None and (directory / IMPRINT_NAME).is_file():
            with _loaded(plan, directory) as (model, _):
                found[member.step] = _memory(model, directory)
    return "; ".join(text if len(steps) == 1 else f"step {step}: {text}" for step, text in found.items())


def base_or_why(plan: ExportPlan) -> str:
    """The base of an adapter. Raises CannotLoad where nobody says which it is."""
    try:
        return base_of(plan)
    except ExportRefused as error:
        raise CannotLoad(error.message) from error


def _memory(model: Any, directory: Path) -> str:
    """How a loaded model compares with what was in memory when its checkpoint was saved; empty where nobody knows."""
    imprint = _whole_imprint(directory)
    return "" if imprint is None else _as_in_memory(compared(imprint.model, model_state(model)))


def _whole_imprint(directory: Path) -> Imprint | None:
    """The imprint of a checkpoint, None where there is none, or one of the part that one process held."""
    imprint = Imprint.read(directory)
    return imprint if imprint is not None and imprint.layout in ("", "whole") else None


def _as_in_memory(found: Found) -> str:
    said = f"{found.equal:,} of {found.total:,} tensors as they were in memory when it was saved"
    return f"{said}, not so: {listed(found.wrong)}" if found.wrong else said


def _same_digests(before: Portrait, after: Portrait) -> None:
    names = [n for n in sorted({*before.digests, *after.digests}) if before.digests.get(n) != after.digests.get(n)]
    if names:
        raise ExportUnequal(f"{len(names)} tensors differ once they are loaded: {', '.join(names[:5])}")
