"""Tensors of an accelerator on their way to host memory: on a stream of their own, beside the training's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import torch

from keepstep.formats.memory import address
from keepstep.snapshot.piece import Copy

logger = logging.getLogger("keepstep")

CHUNK_BYTES = 256 * 2**20
"""Bytes of one transfer: transfers of the training itself find a place between two."""


class DeviceCopy:
    """Copies from one device, in chunks, without a copy on the device.

    `begin` and `gate` are the training thread's: neither makes it wait, the device's own queue does. With pinned
    targets the transfers run while the device computes; with others they are right, and slow.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._module: Any = torch.get_device_module(device)
        # The CPU's stream, which does nothing, takes no device.
        self._stream: Any = self._module.Stream() if device.type == "cpu" else self._module.Stream(device=device)
        self._begun: Any = None
        self._done: Any = None

    def begin(self) -> None:
        """What is copied is the state after all that the training has queued until now."""
        self._begun = self._module.current_stream(self.device).record_event()
        self._done = None

    def copy(self, pieces: Sequence[Copy]) -> None:
        """Queue the copies; their sources are flat `uint8` tensors of the device, to be kept alive until `wait`."""
        with self._module.stream(self._stream):
            if self._begun is not None:
                self._stream.wait_event(self._begun)
            for piece in pieces:
                if piece.target.nbytes:
                    self._transfer(torch.frombuffer(piece.target, dtype=torch.uint8), piece.source)
            self._done = self._stream.record_event()

    def gate(self) -> None:
        """Let what the training queues from now on wait for the copies, on the device."""
        if self._done is not None:
            self._module.current_stream(self.device).wait_event(self._done)

    def wait(self) -> None:
        """Return when every byte has arrived."""
        if self._done is not None:
            self._done.synchronize()

    def pin(self, buffer: memoryview) -> None:
        """Fix host memory in its place, so that transfers to it can run beside the training; said where it fails."""
        if self.device.type != "cuda":
            return
        result = torch.cuda.cudart().cudaHostRegister(address(buffer), buffer.nbytes, 0)  # pyright: ignore
        if int(result) != 0:
            logger.warning("host memory can't be pinned (error %d): saves hold the training up for longer", int(result))

    def unpin(self, buffer: memoryview) -> None:
        """Undo `pin`, before the memory is let go."""
        if self.device.type == "cuda" and buffer.nbytes:
            torch.cuda.cudart().cudaHostUnregister(address(buffer))  # pyright: ignore

    def _transfer(self, target: torch.Tensor, source: Any) -> None:
        for start in range(0, target.numel(), CHUNK_BYTES):
            part = slice(start, start + CHUNK_BYTES)
            target[part].copy_(source[part], non_blocking=True)
