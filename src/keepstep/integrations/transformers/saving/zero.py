"""DeepSpeed's own writer in a save of all ranks: once a save, and where it fails alone, told afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import Any
from unittest.mock import patch

from keepstep.integrations.transformers.saving.deferring import Deferral
from keepstep.integrations.transformers.setup.zero import by_deepspeed
from keepstep.snapshot.ranks import LEAD

_LATEST = "latest"
"""The file that names DeepSpeed's directory in a checkpoint."""
_SCRIPTS = "_copy_recovery_script"


@contextmanager
def written_by_deepspeed(trainer: Any, deferral: Deferral) -> Iterator[None]:
    """While it lasts, DeepSpeed writes its files once a save, and what rank 0 alone fails with is kept.

    Under ZeRO-3 `save_model` has the whole state written, where no weights are gathered; what comes after it would
    have the same written once more, over it. With `save_only_model` nothing comes after it.
    """
    engine: Any = trainer.model_wrapped if by_deepspeed(trainer) else None
    if not hasattr(engine, "save_checkpoint"):
        yield
        return
    write, save_model, again = engine.save_checkpoint, trainer.save_model, not trainer.args.save_only_model
    of_model = False

    @wraps(write)
    def write_once(directory: Any, tag: Any = None, *args: Any, **kwargs: Any) -> Any:
        if of_model and again:
            return None
        named = kwargs.pop("save_latest", True)
        written = write(directory, tag, *args, save_latest=False, **kwargs)
        if named and trainer.args.process_index == LEAD:
            with deferral.kept():
                (Path(directory) / _LATEST).write_text(tag or f"global_step{engine.global_steps}", encoding="utf-8")
        return written

    @wraps(save_model)
    def save_model_alone(*args: Any, **kwargs: Any) -> Any:
        nonlocal of_model
        of_model = True
        try:
            return save_model(*args, **kwargs)
        finally:
            of_model = False

    with (
        patch.object(engine, "save_checkpoint", write_once),
        patch.object(engine, _SCRIPTS, deferral.keeping(getattr(engine, _SCRIPTS))),
        patch.object(trainer, "save_model", save_model_alone),
    ):
        yield
