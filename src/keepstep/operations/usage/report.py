"""What a look at the bytes found, as plain frozen values."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from keepstep.model import Checkpoint
from keepstep.operations.seeing.finding import Unreadable
from keepstep.retention import Outcome
from keepstep.run import Limits
from keepstep.stores import Room


class Kinds(msgspec.Struct, frozen=True, gc=False):
    """Bytes by what they are for.

    `weights` can be loaded, `optimizer` is what only a resume needs (a thin frees it), `other` is small files, records
    and whatever else lies in a run's directory, `litter` lies below `.keepstep` and is no checkpoint of the run now,
    `unmanaged` is what keepstep did not commit.
    """

    weights: int = 0
    optimizer: int = 0
    other: int = 0
    litter: int = 0
    unmanaged: int = 0

    @property
    def total(self) -> int:
        """Bytes of all kinds."""
        return self.weights + self.optimizer + self.other + self.litter + self.unmanaged

    def __add__(self, more: Kinds) -> Kinds:
        pairs = zip(msgspec.structs.astuple(self), msgspec.structs.astuple(more), strict=True)
        return Kinds(*(one + other for one, other in pairs))

    def to_json(self) -> dict[str, int]:
        """Bytes of each kind."""
        return msgspec.structs.asdict(self)


class Share(msgspec.Struct, frozen=True, gc=False):
    """What one committed checkpoint takes, and what would free some of it.

    `outcome` is what the next prune does with it, which frees `prune_bytes`; `thin_bytes` is what `keepstep thin` would
    free, 0 where it would refuse. `manifest_bytes` is the sum of the files that the manifest lists, and `allocated`
    (bytes) is known when the disk itself was walked.
    """

    checkpoint: Checkpoint
    kinds: Kinds
    outcome: Outcome
    prune_bytes: int
    thin_bytes: int
    manifest_bytes: int
    allocated: int | None = None
    found_bytes: int | None = None
    """Bytes on the disk of its files, without the manifest, where that was walked."""

    @property
    def differs(self) -> bool:
        """True when the disk was walked, and holds more or fewer bytes than the manifest lists."""
        return self.found_bytes is not None and self.found_bytes != self.manifest_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        checkpoint = self.checkpoint
        return {
            "step": checkpoint.step,
            "generation": checkpoint.generation,
            "kind": checkpoint.kind.value,
            "path": None if checkpoint.path is None else str(checkpoint.path),
            "size_bytes": self.kinds.total,
            "weights_bytes": self.kinds.weights,
            "optimizer_bytes": self.kinds.optimizer,
            "other_bytes": self.kinds.other,
            "allocated_bytes": self.allocated,
            "action": self.outcome.value,
            "prune_frees_bytes": self.prune_bytes,
            "thin_frees_bytes": self.thin_bytes,
            "differs": self.differs,
        }


@dataclass(frozen=True, slots=True)
class Litter:
    """One of keepstep's rooms with what is no checkpoint of the run now: its name, what it is, and its bytes."""

    name: str
    what: str
    size_bytes: int
    allocated: int
    checkpoints: int = 0
    """Checkpoints of the run, or of a previous one, that lie there, whole as they were."""
    option: str = ""
    """The option of `keepstep prune` that removes them, empty where there is none."""

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "name": self.name,
            "what": self.what,
            "size_bytes": self.size_bytes,
            "allocated_bytes": self.allocated,
            "checkpoints": self.checkpoints,
            "prune_option": self.option or None,
        }


@dataclass(frozen=True, slots=True)
class Unmanaged:
    """A directory with checkpoints that keepstep did not commit to this run, and why they are none of it."""

    path: Path
    reason: str
    size_bytes: int
    allocated: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "path": str(self.path),
            "reason": self.reason,
            "size_bytes": self.size_bytes,
            "allocated_bytes": self.allocated,
        }


@dataclass(frozen=True, slots=True)
class Usage:
    """Where the bytes of one run are. `checked`: the disk itself was walked, in place of the manifests' sizes."""

    path: Path
    run_id: str
    checked: bool
    shares: tuple[Share, ...]
    litter: tuple[Litter, ...]
    unmanaged: tuple[Unmanaged, ...]
    records_bytes: int
    """Run file, event log, pins; and what lies in the run's directory beside its checkpoints."""
    set_aside_bytes: int
    quarantined_bytes: int
    previous_bytes: int
    """Bytes of the checkpoints of previous runs, which a fresh start set aside."""
    prune_aside_bytes: int
    """Bytes that the next prune would free of what lies aside."""
    limits: Limits
    directories_bytes: int
    """Apparent bytes of directories themselves, which no total counts; all of them when the disk was walked."""
    allocated: int | None
    disk: Room
    unreadable: tuple[Unreadable, ...]
    managed: bool = True
    address: str = ""
    """That of a mirror, which has no path, and of whose room nothing is known."""

    @property
    def called(self) -> str:
        """How people name the run."""
        return self.address or str(self.path)

    @property
    def kinds(self) -> Kinds:
        """Bytes of the run by kind."""
        return Kinds(
            weights=sum(share.kinds.weights for share in self.shares),
            optimizer=sum(share.kinds.optimizer for share in self.shares),
            other=sum(share.kinds.other for share in self.shares) + self.records_bytes,
            litter=sum(room.size_bytes for room in self.litter),
            unmanaged=sum(found.size_bytes for found in self.unmanaged),
        )

    @property
    def checkpoints_bytes(self) -> int:
        """Bytes of the committed checkpoints."""
        return sum(share.kinds.total for share in self.shares)

    @property
    def budget_used(self) -> int:
        """Bytes that a budget counts: what the manifests list of all checkpoints, aside and of previous runs too."""
        return sum(share.manifest_bytes for share in self.shares) + self.aside_bytes + self.previous_bytes

    @property
    def prune_bytes(self) -> int:
        """Bytes that the next prune by the run's own policy, within its budget, would free."""
        return sum(share.prune_bytes for share in self.shares) + self.prune_aside_bytes

    @property
    def thin_bytes(self) -> int:
        """Bytes that thinning every checkpoint that may be thinned would free; some of them a prune frees too."""
        return sum(share.thin_bytes for share in self.shares)

    @property
    def aside_bytes(self) -> int:
        """Bytes of checkpoints that a rewind set aside, and of quarantined ones."""
        return self.set_aside_bytes + self.quarantined_bytes

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        kinds = self.kinds
        return {
            "path": self.called,
            "run_id": self.run_id,
            "checked": self.checked,
            "size_bytes": kinds.total,
            "allocated_bytes": self.allocated,
            "directories_bytes": self.directories_bytes if self.checked else None,
            "kinds": kinds.to_json(),
            "by_checkpoint": [share.to_json() for share in self.shares],
            "litter": [room.to_json() for room in self.litter],
            "unmanaged": [found.to_json() for found in self.unmanaged],
            "records_bytes": self.records_bytes,
            "frees": {"prune_bytes": self.prune_bytes, "thin_bytes": self.thin_bytes},
            "aside_bytes": self.aside_bytes,
            "set_aside_bytes": self.set_aside_bytes,
            "quarantined_bytes": self.quarantined_bytes,
            "previous_bytes": self.previous_bytes,
            "limits": self.limits.to_json(),
            "budget_used_bytes": self.budget_used,
            "disk": {"free_bytes": self.disk.free_bytes, "total_bytes": self.disk.total_bytes}
            if not self.address
            else None,
            "unreadable": [item.to_json() for item in self.unreadable],
        }


@dataclass(frozen=True, slots=True)
class OtherCheckpoint:
    """A file or a directory that another writer than a Trainer left; `step` is the one in its name, where one is."""

    name: str
    writer: str
    step: int | None
    size_bytes: int
    allocated: int

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        return {
            "name": self.name,
            "writer": self.writer,
            "step": self.step,
            "size_bytes": self.size_bytes,
            "allocated_bytes": self.allocated,
        }


@dataclass(frozen=True, slots=True)
class Stock:
    """A directory with checkpoints and without a run, as the Trainer alone leaves it: counted, and not managed.

    `detail` is there where it is what was asked for: checkpoint by checkpoint. `others` are the checkpoints of a
    directory of another writer's; of that they alone are counted.
    """

    path: Path
    checkpoints: int
    reason: str
    size_bytes: int
    allocated: int
    directories_bytes: int
    detail: Usage | None = None
    others: tuple[OtherCheckpoint, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        found = {
            "path": str(self.path),
            "checkpoints": self.checkpoints,
            "reason": self.reason,
            "size_bytes": self.size_bytes,
            "allocated_bytes": self.allocated,
        }
        if self.others:
            return found | {"by_checkpoint": [other.to_json() for other in self.others]}
        if self.detail is None:
            return found
        return found | {"by_checkpoint": [share.to_json() for share in self.detail.shares]}


@dataclass(frozen=True, slots=True)
class TreeUsage:
    """Where the bytes at and below some directories are."""

    roots: tuple[Path, ...]
    checked: bool
    runs: tuple[Usage, ...]
    stock: tuple[Stock, ...]
    elsewhere_bytes: int
    """Bytes of what belongs to no run and to no directory of checkpoints."""
    elsewhere_allocated: int
    elsewhere_directories_bytes: int
    unreadable: tuple[Unreadable, ...]

    @property
    def kinds(self) -> Kinds:
        """Bytes by kind; what belongs to no run is not managed."""
        outside = sum(found.size_bytes for found in self.stock) + self.elsewhere_bytes
        return sum((run.kinds for run in self.runs), Kinds(unmanaged=outside))

    @property
    def directories_bytes(self) -> int:
        """Apparent bytes of directories themselves, which no total counts; all of them when the disk was walked."""
        of_stock = sum(found.directories_bytes for found in self.stock)
        return sum(run.directories_bytes for run in self.runs) + of_stock + self.elsewhere_directories_bytes

    @property
    def allocated(self) -> int | None:
        """Allocated bytes, None where the disk was not walked."""
        if not self.checked:
            return None
        of_stock = sum(found.allocated for found in self.stock)
        return sum(run.allocated or 0 for run in self.runs) + of_stock + self.elsewhere_allocated

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; sizes in bytes."""
        kinds = self.kinds
        return {
            "roots": [str(root) for root in self.roots],
            "checked": self.checked,
            "size_bytes": kinds.total,
            "allocated_bytes": self.allocated,
            "directories_bytes": self.directories_bytes if self.checked else None,
            "kinds": kinds.to_json(),
            "runs": [run.to_json() for run in self.runs],
            "stock": [found.to_json() for found in self.stock],
            "elsewhere_bytes": self.elsewhere_bytes,
            "frees": {
                "prune_bytes": sum(run.prune_bytes for run in self.runs),
                "thin_bytes": sum(run.thin_bytes for run in self.runs),
            },
            "aside_bytes": sum(run.aside_bytes for run in self.runs),
            "previous_bytes": sum(run.previous_bytes for run in self.runs),
            "unreadable": [item.to_json() for item in self.unreadable],
        }
