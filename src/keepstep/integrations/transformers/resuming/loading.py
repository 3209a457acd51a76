"""What a checkpoint holds of a model is put into it: by the stock loader, or by names where that one would not do."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from keepstep.integrations.transformers.resuming import adapters, renamed
from keepstep.integrations.transformers.resuming.serving import loads_whole_files
from keepstep.integrations.transformers.resuming.sources import Sources
from keepstep.integrations.transformers.resuming.trained import adapted, trained, unwrapped
from keepstep.integrations.transformers.resuming.unsaved import refusal
from keepstep.integrations.transformers.setup.own_code import is_stock

LOAD, LOAD_BEST = "_load_from_checkpoint", "_load_best_model"


def load_weights(trainer: Any, directory: Path, stock: Callable[[], None], *, best: bool) -> list[str]:
    """Load a checkpoint into the trainer's model; `stock` calls its own loader, of the best at the end or of a resume.

    Where the checkpoint has all that trains, but not where the stock loader looks for it, it goes by name into the
    model as it was built, and what the library writes in another shape as its own loader would convert it. PEFT's
    loader knows one adapter, freezes and deactivates the others, and takes neither other ranks nor the inside of a
    prompt encoder; that of a whole model takes no tensor that is called otherwise in memory. A loader of the user's own
    is always called. What lies in the extra file comes last.
    Returns the names of what trains and was not put back, where that is known. Raises ResumeRefused where the stock
    loader fails for lack of tensors that are in no file.
    """
    sources = _sources(trainer, directory, LOAD_BEST if best else LOAD)
    if sources is not None:
        sources.convert()
        if not sources.lacking:
            sources.load()
            adapters.put_back(trainer.model, directory)
            if best and adapted(trainer.model):
                trainer.model.eval()  # as the stock loader leaves it
            return []
    lacking = [] if sources is None else sources.lacking
    try:
        with _as_built(trainer.model):
            stock()
    except RuntimeError as error:
        if not lacking:
            raise
        raise refusal(directory, lacking, trained(trainer.model)) from error
    if loads_whole_files(trainer):
        if sources is not None and not adapted(trainer.model):
            sources.load()
        adapters.put_back(trainer.model, directory)
    return lacking


def mend(model: Any, directory: Path, wanted: Iterable[str]) -> set[str]:
    """Put what a checkpoint's files hold into a model: by name, else as the library converts it.

    For what a loader passed over or made something else of. Returns the names, of those that are `wanted`, of what the
    files hold: it is as it is there now.
    """
    model = unwrapped(model)
    files = adapters.files_of(model, directory) if adapted(model) else renamed.all_files_of(model, directory)
    sources = Sources(model, directory, files)
    sources.lacking = sources.not_in_files(wanted)
    sources.load()
    sources.convert()
    adapters.put_back(model, directory)
    return set(wanted) - set(sources.lacking)


def _sources(trainer: Any, directory: Path, loader: str) -> Sources | None:
    """Where a checkpoint has what trains; None where it is loaded by others, who know better."""
    if not loads_whole_files(trainer) or not is_stock(trainer, loader):
        return None
    model = unwrapped(trainer.model)
    files = adapters.files_of(model, directory) if adapted(model) else renamed.files_of(model, directory)
    return None if files is None else Sources(model, directory, files)


@contextmanager
def _as_built(model: Any) -> Iterator[None]:
    """Afterwards the same parameters train and the same adapters are active as before."""
    model = unwrapped(model)
    trains = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    active = _active(model)
    yield
    if active and _active(model) != active:
        model.base_model.set_adapter(active)
    for name, parameter in model.named_parameters():
        if name in trains and parameter.requires_grad != trains[name]:
            parameter.requires_grad_(trains[name])


def _active(model: Any) -> list[str]:
    if not adapted(model):
        return []
    return list(model.active_adapters() if adapters.is_native(model) else model.active_adapters)
