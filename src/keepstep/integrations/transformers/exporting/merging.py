"""An adapter merged into its base, in fp32, and compared with both before it is written in the dtype asked for."""

from __future__ import annotations

import gc
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from keepstep.formats.safetensors_header import TensorEntry
from keepstep.integrations.transformers.exporting.models import CannotLoad, first_line, load_base, put_adapter, quiet
from keepstep.integrations.transformers.exporting.portrait import compare, outputs_of
from keepstep.integrations.transformers.exporting.tensors import weights_below
from keepstep.operations.export.errors import ExportRefused, ExportUnequal
from keepstep.operations.export.plan import tensors_of_base
from keepstep.operations.export.report import Forward
from keepstep.paths import expanded
from keepstep.units import format_size

TOLERANCE = 1e-4
"""What the merged model's output may differ from base and adapter, both in fp32, as a part of the largest output:
rounding alone. A forgotten scaling or a wrong base is far above it."""
ROUNDED = {torch.float32: 1e-4, torch.float16: 0.02, torch.bfloat16: 0.1}
"""The same for the exported model in the dtype that it is exported in: that of each weight's own rounding."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged model in fp32 and the dtype that its base is stored in.

    `outputs` are those of base and adapter, `comparison` that of them with the merged model's; None where nothing is to
    be checked, or no forward pass was possible.
    """

    model: Any
    stored: torch.dtype
    outputs: torch.Tensor | None
    comparison: Forward | None


def merge(base: str, adapter: Path, *, check: bool) -> Merged:
    """Merge an adapter in a directory into its base, in fp32, and compare the result with both.

    Raises ExportRefused without the base, with broken weights, or without the memory for it, ExportUnequal where the
    merged model is another one.
    """
    _check_memory(base)
    try:
        model, _ = load_base(base, adapter, torch.float32)
    except CannotLoad as error:
        raise ExportRefused(str(error), hint="Name the base: --base DIR_OR_NAME") from error
    adapted = put_adapter(model, adapter)
    with torch.no_grad():
        before = _outputs(adapted) if check else None
        try:
            with quiet():
                merged = adapted.merge_and_unload(safe_merge=True).eval()
        except (ValueError, RuntimeError, AttributeError) as error:
            raise ExportRefused(f"the adapter can't be merged: {first_line(error)}") from error
        del adapted, model
        gc.collect()
        forward = None if before is None else compare(before, outputs_of(merged), relative=TOLERANCE)
    if forward is not None and not forward.passes:
        raise ExportUnequal(
            f"the merged model is not base and adapter: {forward.describe()}",
            hint="PEFT can't merge this adapter into this model without a loss. Export the adapter as it is.",
        )
    return Merged(merged, _stored_dtype(base), before, forward)


def _stored_dtype(base: str) -> torch.dtype:
    """What the files of a base model are in: as they say where they lie in a directory, else as its config says."""
    codes = {entry.dtype for entry in _tensors(base)} & set(_FROM_HEADER)
    if len(codes) == 1:
        return _FROM_HEADER[codes.pop()]
    from transformers import AutoConfig

    with quiet():
        said = str(getattr(AutoConfig.from_pretrained(base, trust_remote_code=False), "dtype", None))
    return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(said.removeprefix("torch."), torch.float32)


_FROM_HEADER = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}


def _tensors(base: str) -> list[TensorEntry]:
    return tensors_of_base(weights_below(expanded(base)))


def _outputs(model: Any) -> torch.Tensor | None:
    try:
        return outputs_of(model)
    except Exception:  # models take inputs of all kinds; the comparison of tensors remains
        return None


def _check_memory(base: str) -> None:
    needed = sum(entry.nbytes("F32") for entry in _tensors(base)) * 5 // 4
    found = re.search(r"MemAvailable:\s+(\d+) kB", _meminfo())
    if found is not None and needed > int(found[1]) * 1024:
        raise ExportRefused(
            f"merging is done in fp32 and needs {format_size(needed)} of memory; "
            f"{format_size(int(found[1]) * 1024)} are free",
            hint="Export the adapter as it is, or merge it on a larger machine.",
        )


def _meminfo() -> str:
    try:
        return Path("/proc/meminfo").read_text(encoding="ascii")
    except OSError:
        return ""
