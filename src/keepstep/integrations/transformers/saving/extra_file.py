"""The file for what trains and is in no file of the stock writers: found at each save, said at the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedModel

from keepstep.engine import Recorded, Written, memory_of
from keepstep.formats.safetensors_file import STOCK_METADATA, stock_dtypes
from keepstep.integrations.transformers.resuming.adapters import prompt_embeddings
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.trained import EXTRA_NAME, adapted, bare, scores, trained, unwrapped
from keepstep.integrations.transformers.saving.disk_errors import as_os_error
from keepstep.integrations.transformers.setup.messages import listed, logger
from keepstep.units import format_size


class ExtraFile:
    """Adds `keepstep_extra.safetensors` to the saves of one trainer where they need it."""

    def __init__(self, trainer: Any, beside: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """`beside` gives what has moved beside the model, by names that no tensor of it has."""
        self._trainer = trainer
        self._beside = beside
        self._said = self._said_beside = False

    def start(self) -> None:
        """Begin a training: what its first save lacks is said once."""
        self._said = self._said_beside = False

    def add(self, written: Written, directory: Path, recorded: Recorded | None) -> None:
        """Have what trains and was not written go into a file of its own: by the engine that `recorded`, else now."""
        if not loads_whole_files(self._trainer):
            return
        lacking = lacking_in(self._trainer.model, written)
        kept = {name: tensor for name, tensor in lacking.items() if tensor.dtype in stock_dtypes()}
        if lacking and not self._said:
            self._said = True
            _say(kept, lacking.keys() - kept.keys())
        kept |= scores(self._trainer.model)
        kept |= self._moved()
        if not kept:
            return
        tensors = {name: tensor.detach().contiguous() for name, tensor in kept.items()}
        if recorded is not None:
            recorded.safetensors[directory / EXTRA_NAME] = (tensors, STOCK_METADATA)
            return
        with as_os_error(directory.parent):
            (directory / EXTRA_NAME).write_bytes(safetensors.torch.save(tensors, dict(STOCK_METADATA)))

    def _moved(self) -> dict[str, torch.Tensor]:
        """What has moved beside the model; said with the first save that has it."""
        if self._trainer.args.save_only_model:
            return {}
        moved = self._beside()
        kept = {name: tensor for name, tensor in moved.items() if tensor.dtype in stock_dtypes()}
        if moved and not self._said_beside:
            self._said_beside = True
            _say_moved(kept, moved.keys() - kept.keys())
        return kept


def lacking_in(model: Any, written: Written) -> dict[str, torch.Tensor]:
    """What trains and is in none of the files, by its name in memory.

    Of a model with adapters that is what lies in no file as it is in memory. Of a module of the user's own it is what
    is there under no name either; where nothing of it is found, it was written in a way of its own, which is not
    judged. A model of transformers writes all that it has.
    """
    if isinstance(unwrapped(model), PreTrainedModel) and not adapted(model):
        return {}
    live = {name: tensor for name, tensor in trained(model).items() if memory_of(tensor) is not None}
    if adapted(model):
        known = {memory_of(tensor) for tensor in prompt_embeddings(model).values()}
        return {n: t for n, t in live.items() if not written.holds(t) and memory_of(t) not in known}
    keys = {bare(key).removeprefix("module.") for key in written.keys}
    lacking = {n: t for n, t in live.items() if not written.holds(t) and n not in keys}
    return lacking if len(lacking) < len(live) else {}


def _say_moved(kept: Mapping[str, torch.Tensor], lost: Collection[str]) -> None:
    if kept:
        size = sum(tensor.numel() * tensor.element_size() for tensor in kept.values())
        logger.info(
            "%s beside the model (%s, %s): kept in %s for a resume; stock loaders do not read it",
            "1 tensor moves" if len(kept) == 1 else f"{len(kept)} tensors move",
            listed([name.removeprefix("trainer.") for name in kept]), format_size(size), EXTRA_NAME,
        )  # fmt: skip
    if lost:
        logger.warning(
            "%d tensors that move beside the model can be kept in no file (%s): a resume starts them anew",
            len(lost), listed(sorted(lost)),
        )  # fmt: skip


def _say(kept: dict[str, torch.Tensor], lost: set[str]) -> None:
    if kept:
        logger.info(
            "%s in no file that the stock writers write (%s): kept in %s, from which a resume and the best at the end "
            "put them back; stock loaders do not read it",
            "1 tensor that trains is" if len(kept) == 1 else f"{len(kept)} tensors that train are",
            listed(kept), EXTRA_NAME,
        )  # fmt: skip
    if lost:
        logger.warning(
            "%d of the tensors that train can be kept in no file (%s): a resume starts them anew; save and load them "
            "in a callback, or give them a dtype that safetensors files hold",
            len(lost), listed(sorted(lost)),
        )  # fmt: skip
