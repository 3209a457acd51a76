"""Stock loaders of Hugging Face read what was verified."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from keepstep.engine import HeldFiles, served
from keepstep.errors import CheckpointCorrupt
from keepstep.integrations.transformers.stock import LOAD_FILE, SAFE_OPEN
from keepstep.repository import MANIFEST_NAME, Repository
from keepstep.stores import store_at


def serving(held: HeldFiles) -> AbstractContextManager[None]:
    """While it lasts, the loaders of transformers, PEFT and accelerate get what is held from memory."""
    return served(held, LOAD_FILE, SAFE_OPEN)


@contextmanager
def verified(path: str | os.PathLike[str]) -> Iterator[str]:
    """Verify a checkpoint while it is read; inside, `from_pretrained` and stock loaders get its weights from memory.

    Yields the path: `with verified("runs/sft/checkpoint-300") as path: AutoModel.from_pretrained(path)`. Each weights
    file is read once. Raises OSError without a manifest, CheckpointCorrupt when it is damaged.
    """
    directory = Path(os.path.abspath(path))
    if not (directory / MANIFEST_NAME).is_file():
        raise FileNotFoundError(f"{directory} has no {MANIFEST_NAME}: there is nothing to verify it by")
    checkpoint = Repository(store_at(directory.parent), "").read_manifest(directory.name)
    held = HeldFiles()
    verification = held.check_weights(checkpoint)
    if not verification.ok:
        problems = "; ".join(map(str, verification.problems))
        raise CheckpointCorrupt(f"{directory} is damaged: {problems}", hint="Load another checkpoint.")
    try:
        with serving(held):
            yield str(directory)
    finally:
        held.clear()


def loads_whole_files(trainer: Any) -> bool:
    """Whether a trainer loads its state by the stock loaders: DeepSpeed and FSDP have their own."""
    return not (getattr(trainer, "is_deepspeed_enabled", False) or getattr(trainer, "is_fsdp_enabled", False))
