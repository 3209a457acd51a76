"""The tensors that a model's library writes in another shape than they have in memory, as it reads them back.

`from_pretrained` does that for a new model; a Trainer's resume does not, and leaves the live ones as they are.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from transformers import PreTrainedModel

from keepstep.integrations.transformers.resuming.trained import bare, live_tensors, unwrapped
from keepstep.integrations.transformers.setup.messages import logger
from keepstep.snapshot.random_state import untouched

Sink = Callable[[str, torch.Tensor], None]
"""Is given the name of a live tensor, and a value of its shape."""
core: Any
mapping: Any
LoadStateDictConfig: Any
try:
    from transformers import conversion_mapping as mapping
    from transformers import core_model_loading as core
    from transformers.modeling_utils import LoadStateDictConfig
except ImportError:  # before transformers 5, where nothing is converted
    core = mapping = LoadStateDictConfig = None

ONE_THREAD = {"HF_DEACTIVATE_ASYNC_LOAD": "1"}
"""The library's own threads would convert all at once, in memory for all at once."""


def convert(model: Any, tensors: Mapping[str, torch.Tensor], sink: Sink) -> None:
    """Give `sink` what the library's loader makes of the tensors of a checkpoint's files; the model stays as it is.

    Nothing is given where the library has no such loader, or it is no model of its own.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel) or not hasattr(core, "convert_and_load_state_dict_in_model"):
        return
    shapes = {name: tensor.shape for name, tensor in live_tensors(model).items()}

    def put(_model: Any, name: str, value: Any, *_args: Any, **_kwargs: Any) -> None:
        if shapes.get(name) == value.shape:
            sink(name, value)

    try:
        with _as_it_was(model), _quietly(), untouched(), patch.object(core, "set_param_for_module", put):
            transforms = mapping.get_model_conversion_mapping(model, None, getattr(model, "hf_quantizer", None))
            given = {bare(key): tensor for key, tensor in tensors.items()}
            core.convert_and_load_state_dict_in_model(model, given, LoadStateDictConfig(weight_mapping=transforms))
    except Exception as error:  # private ways of the library: where they fail, what they would have given is lacking
        logger.debug("what %s's files hold of %s can't be converted: %s", core.__name__, type(model).__name__, error)


def copied(model: Any, directory: Path, sink: Sink) -> None:
    """Give `sink` every tensor of a second model, that `from_pretrained` makes of the files.

    It takes the memory of a whole model, and serves where the way in place does not.
    """
    model = unwrapped(model)
    if not isinstance(model, PreTrainedModel):
        return
    live = live_tensors(model)
    try:
        with _quietly(), untouched():
            second = type(model).from_pretrained(directory, dtype=model.dtype, local_files_only=True)
    except Exception as error:  # a model's own ways, and files that it can't read
        logger.debug("%s can't be read from %s: %s", type(model).__name__, directory, error)
        return
    for name, value in live_tensors(second).items():
        if name in live and live[name].shape == value.shape:
            sink(name, value.detach())


@contextmanager
def _as_it_was(model: Any) -> Iterator[None]:
    """Afterwards the model saves as before: loading notes on it what it took."""
    had = "_weight_conversions" in vars(model)
    before = vars(model).get("_weight_conversions")
    try:
        yield
    finally:
        if had:
            model._weight_conversions = before
        else:
            vars(model).pop("_weight_conversions", None)


@contextmanager
def _quietly() -> Iterator[None]:
    """No warnings, no bar, one thread."""
    with warnings.catch_warnings(), patch.dict(os.environ, ONE_THREAD):
        warnings.simplefilter("ignore")
        if hasattr(core, "tqdm"):
            with patch.object(core, "tqdm", lambda items, **_: items):
                yield
        else:
            yield
