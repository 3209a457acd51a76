"""The weights of an export, written: copied, cast, resharded, merged, averaged, or saved anew by stock code."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from keepstep.integrations.transformers.exporting.averaging import Mean, Measure, cook
from keepstep.integrations.transformers.exporting.blueprint import tied_names
from keepstep.integrations.transformers.exporting.evaluating import TokenLoss
from keepstep.integrations.transformers.exporting.merging import merge
from keepstep.integrations.transformers.exporting.models import CannotLoad, load_base, load_model, put_adapter, quiet
from keepstep.integrations.transformers.exporting.portrait import Portrait, digest
from keepstep.integrations.transformers.exporting.tensors import (
    ADAPTER,
    MODEL,
    Changed,
    Tensors,
    cast,
    storage_errors,
    tensors_in,
    weights_below,
    write_shards,
)
from keepstep.model import Checkpoint, FileEntry
from keepstep.operations.export.configs import adjust
from keepstep.operations.export.copying import copy_files
from keepstep.operations.export.errors import ExportRefused
from keepstep.operations.export.files import ADAPTER_CONFIG
from keepstep.operations.export.plan import ExportPlan, base_of, read_json
from keepstep.operations.export.report import Average, Forward
from keepstep.operations.export.request import SHARD_BYTES, TORCH_DTYPES
from keepstep.operations.export.watching import Watcher
from keepstep.stores import open_as_directory

ADAPTER_FIELDS = (
    *("peft_type", "task_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "rank_pattern", "alpha_pattern"),
    *("target_modules", "modules_to_save", "layers_to_transform", "fan_in_fan_out", "base_model_name_or_path"),
)
"""What adapters must agree in to be averaged: fields of adapter_config.json."""
MODEL_FIELDS = (
    *("model_type", "architectures", "num_attention_heads", "num_key_value_heads", "hidden_act", "tie_word_embeddings"),
    *("rope_theta", "rope_scaling", "rope_parameters", "vocab_size"),
)
"""What models must agree in: fields of config.json that no shape of a tensor shows."""
NO_LIMIT = 2**62


@dataclass(frozen=True, slots=True)
class Built:
    """What was written, and what it must be.

    `cast_to` is the dtype that floating tensors were cast to, None where they kept theirs. `averaged` are the
    directories of the members that the mean is of; `expected` the model in memory that stock code wrote; `merged` the
    comparison of a merge with base and adapter, and `outputs` those of the two. `twice` are tensors of ranks that are
    another one under a further name, left out as stock writers do; `stored` the dtype of what ranks wrote. `copied` are
    weights files that were copied as they were, and read back.
    """

    cast_to: torch.dtype | None = None
    average: Average | None = None
    averaged: tuple[Path, ...] = ()
    expected: Portrait | None = None
    merged: Forward | None = None
    outputs: torch.Tensor | None = None
    twice: tuple[str, ...] = ()
    stored: torch.dtype | None = None
    copied: tuple[FileEntry, ...] = ()

    @property
    def dtype_name(self) -> str | None:
        """torch's name of the dtype that the config must say, None where it says the right one."""
        return dtype_name(self.cast_to or self.stored)


def dtype_name(dtype: torch.dtype | None) -> str | None:
    """torch's name of a dtype, without its module."""
    return None if dtype is None else str(dtype).removeprefix("torch.")


def build(plan: ExportPlan, staging: Path, scratch: Path, seen: Watcher) -> Built:
    """Write the weights of an export into `staging`; `scratch` is for what is needed on the way.

    Raises ExportRefused, ExportUnequal, OSError.
    """
    asked = plan.request
    dtype = getattr(torch, TORCH_DTYPES[asked.dtype]) if asked.dtype else None
    if plan.copies:
        copy_files(plan.directory, plan.files.indexes, staging, seen.advance)
        return Built(copied=copy_files(plan.directory, plan.files.weights, staging, seen.advance))
    if asked.average is not None:
        return _average(plan, staging, scratch, dtype, seen)
    if asked.merge:
        seen.describe("merging")
        return _merged(plan, _adapter(plan, plan.source, scratch), staging, dtype)
    seen.describe("writing")
    if plan.files.pickled:
        return _save(loaded(plan.directory), staging, dtype, plan.request.max_shard_size)
    with tensors_in(plan.directory) as tensors:
        twice = _twice(tensors, staging) if plan.files.shards and not plan.files.adapter else ()
        _write(plan, Changed(tensors, dtype, twice), staging, seen)
        return Built(dtype, twice=twice, stored=_stored(tensors) if plan.files.shards else None)


def _twice(tensors: Tensors, configs: Path) -> tuple[str, ...]:
    """Names of tensors that the model's config ties to an earlier one, and that are equal to it, byte for byte."""
    found: list[str] = []
    for first, *others in tied_names(configs):
        there = [name for name in others if {first, name} <= set(tensors.names)]
        found += [name for name in there if _equal(tensors, first, name)]
    return tuple(found)


def _equal(tensors: Tensors, one: str, other: str) -> bool:
    return tensors.spec(one) == tensors.spec(other) and digest(tensors.get(one)) == digest(tensors.get(other))


def _stored(tensors: Tensors) -> torch.dtype | None:
    """The one floating dtype that there is; a config may name that of the base, or of the computation."""
    found = {dtype for name in tensors.names if (dtype := tensors.spec(name).dtype).is_floating_point}
    return found.pop() if len(found) == 1 else None


def _adapter(plan: ExportPlan, member: Checkpoint, scratch: Path) -> Path:
    """A directory that PEFT loads a member's adapter from: its own, or one made of what ranks wrote."""
    home = _home(member)
    if not plan.files.shards:
        return home
    made = scratch / f"adapter-{member.step}"
    made.mkdir()
    for path in (home / ADAPTER_CONFIG, plan.file(ADAPTER_CONFIG)):
        if path.is_file():
            shutil.copyfile(path, made / ADAPTER_CONFIG)
            break
    with tensors_in(home) as tensors:
        write_shards(tensors, made, ADAPTER, NO_LIMIT, lambda _: None)
    return made


def _write(plan: ExportPlan, tensors: Tensors, staging: Path, seen: Watcher) -> None:
    adapter = plan.files.adapter and not plan.request.merge
    limit = NO_LIMIT if adapter else plan.request.max_shard_size or SHARD_BYTES
    write_shards(tensors, staging, ADAPTER if adapter else MODEL, limit, seen.advance)


def _merged(plan: ExportPlan, adapter: Path, target: Path, dtype: torch.dtype | None) -> Built:
    merged = merge(base_of(plan), adapter, check=plan.request.check)
    built = _save(merged.model, target, dtype or merged.stored, plan.request.max_shard_size)
    return replace(built, merged=merged.comparison, outputs=merged.outputs)


def _save(model: Any, target: Path, dtype: torch.dtype | None, limit: int | None) -> Built:
    """Write a model by its own stock writer: it knows which tensors are tied. Raises ExportRefused."""
    if dtype is not None:
        for name, tensor in model.state_dict().items():
            cast(name, tensor, dtype)
        model.to(dtype)
    expected = Portrait({name: digest(tensor) for name, tensor in model.state_dict().items()}, None)
    with quiet(), storage_errors():
        model.save_pretrained(target, max_shard_size=limit or SHARD_BYTES)
    for path in weights_below(target):
        open_as_directory(path)
    return Built(dtype, expected=expected)


def _average(plan: ExportPlan, staging: Path, scratch: Path, dtype: torch.dtype | None, seen: Watcher) -> Built:
    homes = {member.step: _home(member) for member in plan.members}
    steps = list(homes)
    _check_settings(plan, homes)
    if plan.request.merge:
        for member in plan.members:
            step = member.step
            seen.describe(f"merging step {step}")
            adapter = _adapter(plan, member, scratch)
            merged = merge(base_of(plan), adapter, check=plan.request.check)
            dtype = dtype or merged.stored
            homes[step] = scratch / f"merged-{step}"
            _save(merged.model, homes[step], None, None)
        for path in homes[steps[0]].glob("*config.json"):
            shutil.copyfile(path, staging / path.name)
    with Mean([tensors_in(home) for home in homes.values()], dtype) as mean:
        mean.check_alike(steps)
    kitchen = Kitchen(plan, homes, dtype, configs=staging, trial=scratch / "trial", seen=seen)
    average = cook(plan.request.soup, steps, kitchen.measure, kitchen.measured, plan.request.mode)
    seen.describe("writing")
    kitchen.write(average.steps, staging)
    return Built(dtype, average, tuple(homes[step] for step in average.steps))


class Kitchen:
    """Averages of checkpoints, written and evaluated. `homes` are directories of weights by step."""

    def __init__(
        self,
        plan: ExportPlan,
        homes: dict[int, Path],
        dtype: torch.dtype | None,
        *,
        configs: Path,
        trial: Path,
        seen: Watcher,
    ) -> None:
        self._plan = plan
        self._homes = homes
        self._dtype = dtype
        self._configs = configs
        self._trial = trial
        self._seen = seen
        self.measured = ""
        self._evaluate = plan.request.evaluate
        if plan.request.eval_data is not None:
            loss = TokenLoss(plan.request.eval_data, plan.file("tokenizer_config.json").parent)
            self._evaluate, self.measured = loss, loss.describes
        elif self._evaluate is not None:
            better = "lower" if plan.request.mode == "min" else "higher"
            self.measured = f"the caller's own evaluation ({better} is better)"

    @property
    def measure(self) -> Measure | None:
        """How to evaluate an average; None where nothing was given to do it with."""
        return None if self._evaluate is None else self._measure

    def write(self, steps: Sequence[int], target: Path) -> None:
        """Write the mean of the checkpoints of these steps."""
        with Mean([tensors_in(self._homes[step]) for step in steps], self._dtype) as mean:
            _write(self._plan, mean, target, self._seen)

    def _measure(self, steps: Sequence[int]) -> float:
        assert self._evaluate is not None
        self._seen.describe("evaluating " + " + ".join(map(str, steps)))
        shutil.copytree(
            self._configs, self._trial, ignore=shutil.ignore_patterns("*.safetensors", self._trial.parent.name)
        )
        try:
            adjust(self._trial, dtype=dtype_name(self._dtype), base_name=None)
            self.write(steps, self._trial)
            with torch.no_grad():
                return float(self._evaluate(self._load()))
        finally:
            shutil.rmtree(self._trial)

    def _load(self) -> Any:
        if self._plan.kind != "adapter":
            return loaded(self._trial)
        try:
            base, _ = load_base(base_of(self._plan), self._trial)
        except CannotLoad as error:
            raise ExportRefused(f"the average can't be evaluated: {error}") from error
        return put_adapter(base, self._trial)


def loaded(directory: Path) -> Any:
    """A whole model. Raises ExportRefused where no stock class loads it."""
    try:
        return load_model(directory)[0]
    except CannotLoad as error:
        raise ExportRefused(f"the model can't be loaded: {error}") from error


def _home(member: Checkpoint) -> Path:
    assert member.path is not None
    return member.path


def _check_settings(plan: ExportPlan, homes: dict[int, Path]) -> None:
    """Averaged weights must mean the same: same adapter settings, same architecture. Raises ExportRefused."""
    name, fields = (ADAPTER_CONFIG, ADAPTER_FIELDS) if plan.files.adapter else ("config.json", MODEL_FIELDS)
    if plan.file(name).parent != plan.directory:
        return  # one is lent to all
    first, *others = ((step, read_json(path / name)) for step, path in homes.items())
    for step, config in others:
        for key in fields:
            one, other = _plain(first[1].get(key)), _plain(config.get(key))
            if one != other:
                raise ExportRefused(
                    f"steps {first[0]} and {step} can't be averaged: {key} is {one} in one and {other} in the other"
                )


def _plain(value: Any) -> Any:
    return sorted(map(str, value)) if isinstance(value, list) else value
