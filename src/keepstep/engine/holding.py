"""A checkpoint's tensor files, read once: checked while they are read, and kept until they are asked for."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path

from keepstep.formats.chunks import ChunkCorrupt, ChunkedFile
from keepstep.formats.digests import digest_of
from keepstep.formats.memory import aligned_buffer
from keepstep.formats.targets import Target
from keepstep.model import CHUNK_BYTES, Checkpoint, FileEntry
from keepstep.repository import OnBytes, Verification, check_file, verify_files
from keepstep.snapshot.arena import available_memory
from keepstep.stores import Store, store_at

logger = logging.getLogger("keepstep")

WEIGHTS = (".safetensors", ".bin")
STATE = (*WEIGHTS, ".pt")
"""Endings of files that stock code loads on a resume: weights, optimizer, scheduler."""
NEVER_LOADED = "training_args.bin"
COPIED = ".safetensors"
"""Ending of files whose tensors loaders copy into the model: where the page cache has them, no second copy is made."""
SHARE = 0.9
"""The part of the memory that is free when a check begins that it may fill; the rest is for what happens meanwhile."""


class HeldFiles:
    """Verifies checkpoints, and holds the tensor files of the last one that held, as they were when they were verified.

    At most one checkpoint's files are in memory. What does not fit into the memory that is free is verified all the
    same, and left to stock loading, as everything is with `hold=False`.
    """

    def __init__(self, *, hold: bool = True, free: Callable[[], int] = available_memory) -> None:
        self._hold = hold
        self._free = free
        self._room = 0
        self._endings = STATE
        self._images: dict[str, memoryview] = {}
        self._home = Path()

    @property
    def size(self) -> int:
        """Bytes held now."""
        return sum(image.nbytes for image in self._images.values())

    def check(self, checkpoint: Checkpoint) -> Verification:
        """Check every byte, and hold what a resume loads; nothing is held of a checkpoint that is damaged."""
        return self._check(checkpoint, STATE)

    def check_weights(self, checkpoint: Checkpoint) -> Verification:
        """Check what is read beside a resume, and hold the weights: what only a resume needs may be damaged or gone."""
        return self._check(checkpoint, WEIGHTS, weights_alone=True)

    def get(self, path: object) -> memoryview | None:
        """The bytes (writable) of a file that is held; they go on being held, so nobody may change them."""
        return self._images.get(_key(path)) if isinstance(path, (str, os.PathLike)) else None

    def take(self, path: object) -> memoryview | None:
        """The bytes of a file that is held, once: they are the caller's from now on."""
        return self._images.pop(_key(path), None) if isinstance(path, (str, os.PathLike)) else None

    def clear(self) -> None:
        """Let go of everything."""
        self._images.clear()

    def _check(self, checkpoint: Checkpoint, endings: tuple[str, ...], *, weights_alone: bool = False) -> Verification:
        if checkpoint.path is None:
            raise ValueError(f"{checkpoint.name} is not on disk")
        self.clear()
        self._endings = endings
        self._room = int(self._free() * SHARE) if self._hold else 0
        path = checkpoint.path
        self._home = path.parent
        try:
            store = store_at(path.parent)
            found = verify_files(store, path.name, checkpoint.files, check=self._read, weights_alone=weights_alone)
        except BaseException:
            self.clear()
            raise
        verification = Verification.of(checkpoint, found)
        if not (verification.holds_weights if weights_alone else verification.resumable):
            self.clear()
        return verification

    def _read(self, store: Store, key: str, file: FileEntry, on_bytes: OnBytes | None) -> str:
        if not self._is_held(file):
            return check_file(store, key, file, on_bytes)
        path = store.local_path(key)
        try:
            with ChunkedFile(path, file.chunk_digests, size=file.size) as chunked:
                mapped = file.path.endswith(COPIED) and file.size > CHUNK_BYTES and chunked.is_cached
                image = chunked.map() if mapped else self._memory(file)
                if image is None:
                    return check_file(store, key, file, on_bytes)
                chunked.read([] if mapped or not image else [Target(0, image)], on_bytes=on_bytes)
        except ChunkCorrupt as error:
            return error.what
        if file.chunk_digests is None and digest_of(image) != file.digest:
            return "has other bytes than were written (digest differs)"
        self._images[_key(self._home / key)] = image
        return ""

    def _is_held(self, file: FileEntry) -> bool:
        named = file.path.endswith(self._endings) and os.path.basename(file.path) != NEVER_LOADED
        return self._hold and named and not file.by

    def _memory(self, file: FileEntry) -> memoryview | None:
        """Memory for a file that is to be held, None where there is too little."""
        try:
            if file.size > self._room:
                raise MemoryError
            # Small pages: the first touch of 2 MiB ones can take ten times as long where a host backs the memory.
            image = aligned_buffer(file.size)[: file.size]
        except (MemoryError, OSError):
            logger.debug(
                "%s has %d bytes, %d are free: it is verified now and read again to be loaded",
                file.path, file.size, self._room,
            )  # fmt: skip
            return None
        self._room -= file.size
        return image


def _key(path: str | os.PathLike[str]) -> str:
    """One name of a file, however it is spelt; the file itself is not looked at."""
    given = Path(os.path.abspath(path))
    return os.path.join(os.path.realpath(given.parent), given.name)
