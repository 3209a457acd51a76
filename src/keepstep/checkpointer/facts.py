"""What a training loop says of a checkpoint that it saves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from keepstep.model import Kind


@dataclass(frozen=True, slots=True)
class Facts:
    """What a checkpoint says of itself beside its bytes.

    `step` in optimizer steps; `epoch` as the trainer counts it; `metrics` known now; `written_by` versions,
    world size, dtype, parameter count; `fingerprint` what a resume is compared with.
    """

    step: int
    epoch: float | None = None
    kind: Kind = Kind.FULL
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    written_by: Mapping[str, Any] = field(default_factory=dict[str, Any])
    fingerprint: Mapping[str, Any] = field(default_factory=dict[str, Any])
