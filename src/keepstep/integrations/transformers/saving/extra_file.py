"""The file for what trains and is in no file of the stock writers: found at each save, said at the first."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from transformers import PreTrainedModel

from keepstep.engine import Recorded, Written, mark_of, memory_of
from keepstep.formats.safetensors_file import STOCK_METADATA, stock_dtypes
from keepstep.integrations.transformers.resuming.adapters import prompt_embeddings
from keepstep.integrations.transformers.resuming.converted import convert
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.trained import EXTRA_NAME, adapted, bare, scores, trained, unwrapped
from keepstep.integrations.transformers.saving.disk_errors import as_os_error
from keepstep.integrations.transformers.setup.messages import listed, logger
from keepstep.integrations.transformers.setup.own_code import SAVES, own
from keepstep.units import format_size


class ExtraFile:
    """Adds `keepstep_extra.safetensors` to the saves of one trainer where they need it."""

    def __init__(self, trainer: Any, beside: Callable[[], Mapping[str, torch.Tensor]]) -> None:
        """`beside` gives what has moved beside the model, by names that no tensor of it has."""
        self._trainer = trainer
        self._beside = beside
        self.start()

    def start(self) -> None:
        """Begin a training: what its first save lacks is said once."""
        self._said = self._said_beside = False
        self._judged: frozenset[str] = frozenset()
        self._lost: frozenset[str] = frozenset()

    def add(self, written: Written, directory: Path, recorded: Recorded | None) -> frozenset[str]:
        """Have what trains and was not written go into a file of its own: by the engine that `recorded`, else now.

        Returns the names of what is in no file as it is in memory all the same.
        """
        if not loads_whole_files(self._trainer):
            return frozenset()
        otherwise = _otherwise(self._trainer.model, written)
        lacking = self._lacking(otherwise, written, directory, recorded)
        kept = {name: tensor for name, tensor in lacking.items() if tensor.dtype in stock_dtypes()}
        if lacking and not self._said:
            self._said = True
            _say(kept, lacking.keys() - kept.keys())
        self._write(kept | scores(self._trainer.model) | self._moved(), directory, recorded)
        return frozenset(otherwise.keys() - kept.keys())

    def _lacking(
        self, otherwise: dict[str, torch.Tensor], written: Written, directory: Path, recorded: Recorded | None
    ) -> dict[str, torch.Tensor]:
        """Those of the tensors that a resume does not get from the stock files either.

        Of a model with adapters these are all. Of a module of the user's own, what is there under no name either; where
        nothing of it is found, it was written in a way of its own, which is not judged. A model of transformers writes
        some in another shape: whether its library reads them back as they are is tried, once for the same names.
        """
        model = self._trainer.model
        if adapted(model) or not otherwise:
            return otherwise
        if isinstance(unwrapped(model), PreTrainedModel):
            if own(self._trainer, SAVES):
                return {}
            if otherwise.keys() != self._judged:
                self._judged = frozenset(otherwise)
                self._lost = frozenset(otherwise.keys() - _given_back(model, otherwise, directory, recorded))
            return {name: otherwise[name] for name in sorted(self._lost)}
        keys = {bare(key).removeprefix("module.") for key in written.keys}
        lacking = {name: tensor for name, tensor in otherwise.items() if name not in keys}
        return lacking if len(lacking) < len(trained(model)) else {}

    def _write(self, kept: dict[str, torch.Tensor], directory: Path, recorded: Recorded | None) -> None:
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


def _otherwise(model: Any, written: Written) -> dict[str, torch.Tensor]:
    """What trains and lies in no file as it is in memory, by its name there."""
    live = {name: tensor for name, tensor in trained(model).items() if memory_of(tensor) is not None}
    known = {memory_of(tensor) for tensor in prompt_embeddings(model).values()} if adapted(model) else ()
    return {name: t for name, t in live.items() if not written.holds(t) and memory_of(t) not in known}


def _given_back(model: Any, otherwise: dict[str, torch.Tensor], directory: Path, recorded: Recorded | None) -> set[str]:
    """Names of the tensors whose values the files hold all the same: in other memory, or converted by the library."""
    if recorded is not None:
        files = [dict(tensors) for tensors, _ in recorded.safetensors.values()]
    else:
        files = [safetensors.torch.load_file(path) for path in sorted(directory.glob("model*.safetensors"))]
    tensors = {key: tensor for file in files for key, tensor in file.items()}
    found: set[str] = set()

    def judge(name: str, value: torch.Tensor) -> None:
        live = otherwise.get(name)
        if live is not None and mark_of(value) == mark_of(live):
            found.add(name)

    for key, tensor in tensors.items():
        judge(bare(key), tensor)
    if len(found) < len(otherwise):
        convert(model, tensors, judge)
    return found


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
            "%s beside the model and can be kept in no file (%s): new from a resume on",
            "1 tensor moves" if len(lost) == 1 else f"{len(lost)} tensors move", listed(sorted(lost)),
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
            "%d of the tensors that train can be kept in no file (%s), and a resume without them is refused: write "
            "them in a callback's on_save and put them back in its on_train_begin, or give them a dtype that "
            "safetensors files hold",
            len(lost), listed(sorted(lost)),
        )  # fmt: skip
