"""What leaves the machine when a trainer pushes: the model, and of checkpoints what `hub_strategy` asks for."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

from huggingface_hub import utils

from keepstep import layout
from keepstep.checkpointer import Checkpointer
from keepstep.errors import KeepstepError
from keepstep.integrations.transformers.setup.given_arguments import GivenArguments
from keepstep.model import FULL_PREFIX, RESUME_DIRECTORIES, RESUME_FILES, WEIGHTS_PREFIX, parse_name
from keepstep.repository import MANIFEST_NAME
from keepstep.run import HUB_NAME

OURS = (layout.META, f"{layout.META}/*", f"*/{layout.META}/*")
"""Patterns of what is of use in the run's own place alone: it leaves with no upload of a folder."""
_ANYWHERE = (*RESUME_FILES, *(f"{name}/*" for name in RESUME_DIRECTORIES), MANIFEST_NAME)
NOT_THE_MODEL = (
    *OURS,
    *(f"{prefix}[0-9]*/*" for prefix in (WEIGHTS_PREFIX, f"*/{WEIGHTS_PREFIX}", f"*/{FULL_PREFIX}")),
    f"{HUB_NAME}/*",
    *_ANYWHERE,
    *(f"*/{name}" for name in _ANYWHERE),
)
"""Patterns of what lies in an output_dir and is no part of the model; the stock ones leave out `checkpoint-*`."""
_LIBRARY = "transformers.trainer"
"""Where the trainer looks up what uploads a folder: an `HfApi` from transformers 5 on, a function before."""


def leave_ours_here() -> None:
    """Let every upload of a folder from this process leave keepstep's own directory out, as it does with `.git`."""
    everywhere: list[str] | None = getattr(utils, "DEFAULT_IGNORE_PATTERNS", None)
    if everywhere is not None:
        everywhere += [pattern for pattern in OURS if pattern not in everywhere]


class Uploads:
    """The uploads of one trainer: what they leave out, and the checkpoints that they read until they are done."""

    def __init__(self, checkpointer: Checkpointer, arguments: GivenArguments) -> None:
        self._checkpointer = checkpointer
        self._arguments = arguments
        self._token: str | None = None
        self._under_way: list[tuple[Any, ExitStack]] = []

    @contextmanager
    def model_only(self) -> Iterator[None]:
        """While it lasts, the trainer's uploads of a folder take the model along; that of a checkpoint, all of it."""
        library = sys.modules[_LIBRARY]
        with ExitStack() as replaced:
            if (api := getattr(library, "hf_api", None)) is not None:
                replaced.enter_context(patch.object(library, "hf_api", lambda: _Api(api(), self._upload)))
            if (function := getattr(library, "upload_folder", None)) is not None:
                replaced.enter_context(patch.object(library, "upload_folder", partial(self._upload, function)))
            yield

    @contextmanager
    def without_secrets(self) -> Iterator[None]:
        """As `model_only`; and what is recorded of the arguments on the way is the user's values, and no token."""
        token = self._arguments.token
        with self._arguments.recorded(), self.model_only():
            self._token = token
            try:
                yield
            finally:
                self._token = None

    def _upload(self, upload: Callable[..., Any], **options: Any) -> Any:
        if self._token is not None and options.get("token") is None:
            options["token"] = self._token
        folder = Path(options["folder_path"])
        if parse_name(folder.name) is None:
            ignored = options.get("ignore_patterns") or []
            options["ignore_patterns"] = [*([ignored] if isinstance(ignored, str) else ignored), *NOT_THE_MODEL]
            return upload(**options)
        with ExitStack() as held:
            held.enter_context(self._reading(folder))
            job = upload(**options)
            if options.get("run_as_future") and hasattr(job, "add_done_callback"):
                kept = held.pop_all()
                self._under_way.append((job, kept))
                job.add_done_callback(lambda _: kept.close())
        return job

    def _reading(self, folder: Path) -> AbstractContextManager[None]:
        """What keeps a checkpoint in its place while it is read; nothing does for one that is none of the run's."""
        try:
            run = self._checkpointer.run
            if os.path.realpath(folder.parent) == os.path.realpath(run.path):
                checkpoint = run.repository.committed(folder.name)
                if checkpoint is not None:
                    return run.readers.reading([checkpoint.generation], "being uploaded")
        except KeepstepError:
            pass
        return nullcontext()

    def finish(self) -> bool:
        """Let go of what was uploaded; True when a checkpoint had been kept for it since the last call."""
        for job, kept in self._under_way:
            if job.done():
                kept.close()
        had = bool(self._under_way)
        self._under_way = [(job, kept) for job, kept in self._under_way if not job.done()]
        return had


class _Api:
    """An `HfApi` with another way to upload a folder."""

    def __init__(self, api: Any, upload: Callable[..., Any]) -> None:
        self._api = api
        self.upload_folder = partial(upload, api.upload_folder)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._api, name)
