"""One piece of live state, and where its bytes go."""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Copy:
    """Live bytes, in host memory or as a flat `uint8` tensor of a device, and host memory of the same length."""

    name: str
    source: memoryview | torch.Tensor
    target: memoryview

    def read(self) -> bytes:
        """The source's bytes now; waits for a device."""
        return bytes(self.source) if isinstance(self.source, memoryview) else self.source.cpu().numpy().tobytes()
