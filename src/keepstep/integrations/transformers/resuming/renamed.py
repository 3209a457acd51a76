"""Where a checkpoint has the tensors of a whole model that are called otherwise in its files than in memory."""

from __future__ import annotations

import warnings
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from transformers import PreTrainedModel

from keepstep.engine import memory_of, recording
from keepstep.formats.safetensors_header import TensorEntry, tensors_in
from keepstep.integrations.transformers.resuming.trained import bare, live_tensors, unwrapped
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.integrations.transformers.stock import SAVE_FILE
from keepstep.snapshot.random_state import untouched

core: Any
try:
    from transformers import core_model_loading as core
except ImportError:  # before transformers 5
    core = None


def all_files_of(model: Any, directory: Path) -> dict[Path, dict[str, torch.Tensor]]:
    """The weights files of a checkpoint, and the live tensor of each key that any of them may have."""
    model = unwrapped(model)
    paths = _weights_files(directory, ".safetensors") or _weights_files(directory, ".bin")
    written = _written_names(model) if isinstance(model, PreTrainedModel) else {}
    targets = {**live_tensors(model), **written}
    return dict.fromkeys(paths, targets)


def files_of(model: Any, directory: Path) -> dict[Path, dict[str, torch.Tensor]] | None:
    """The same where the stock loader does not do.

    None where it does: every tensor is there under a name that it has in memory. Also where nothing can be said: it is
    no model of transformers, or its weights are in other files than safetensors.
    """
    model = unwrapped(model)
    paths = _weights_files(directory, ".safetensors")
    if not isinstance(model, PreTrainedModel) or not paths:
        return None
    files = {path: tensors_in(path) for path in paths}
    entries = {key: entry for found in files.values() for key, entry in found.items()}
    by_name = live_tensors(model)
    if not _unnamed(by_name, entries):
        return None
    targets = {**by_name, **_written_names(model)}
    return dict.fromkeys(files, targets)


def _weights_files(directory: Path, ending: str) -> list[Path]:
    stem = "model" if ending == ".safetensors" else "pytorch_model"
    return [path for path in sorted(directory.glob(f"{stem}*{ending}")) if path.is_file()]


def _unnamed(live: dict[str, torch.Tensor], entries: dict[str, TensorEntry]) -> bool:
    """True when a parameter that trains is under none of its names in the files."""
    keys = {bare(key) for key in entries}
    there = {memory_of(tensor) for name, tensor in live.items() if name in keys}
    return any(tensor.requires_grad and memory_of(tensor) not in there for tensor in live.values() if tensor.numel())


def _written_names(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """The live tensors by the keys under which the library writes them as they are; what it converts is left out."""
    try:
        with warnings.catch_warnings(), untouched():
            warnings.simplefilter("ignore")
            return _by_conversion(model) if hasattr(core, "revert_weight_conversion") else _by_saving(model)
    except Exception as error:  # private ways of the library, and a model's own; a resume must not depend on them
        logger.debug("which tensors %s writes under which names is not known: %s", type(model).__name__, error)
        return {}


def _by_conversion(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """From the library's own conversion, run on tensors without memory: those that it renames are the same objects."""
    live = model.state_dict(keep_vars=True)
    shadows = {name: torch.empty_like(tensor, device="meta") for name, tensor in live.items()}
    names = {id(shadow): name for name, shadow in shadows.items()}
    written = core.revert_weight_conversion(model, shadows)
    return {key: live[names[id(shadow)]] for key, shadow in written.items() if id(shadow) in names}


def _by_saving(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """From a save of which the tensors are recorded in place of written."""
    live = {memory_of(tensor) for tensor in live_tensors(model).values()} - {None}
    with TemporaryDirectory(prefix="keepstep-") as scratch, recording(Path(scratch), SAVE_FILE, ()) as recorded:
        model.save_pretrained(scratch)
    given = [item for tensors, _ in recorded.safetensors.values() for item in tensors.items()]
    return {key: tensor for key, tensor in given if memory_of(tensor) in live}
