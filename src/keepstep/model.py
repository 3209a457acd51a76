"""What a checkpoint is, as plain frozen values without any I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from fnmatch import fnmatchcase
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
from msgspec.structs import replace

FULL_PREFIX = "checkpoint-"
"""Directory prefix of resumable checkpoints; stock tools look for it."""
WEIGHTS_PREFIX = "weights-"
"""Directory prefix of weights-only checkpoints; stock tools can't take one for a resume point."""
RESUME_FILES = (
    *("optimizer.pt", "optimizer.bin", "scheduler.pt", "scaler.pt", "rng_state*.pth", "random_states_*.pkl"),
    *("keepstep_state*.json", "keepstep_state*.pt"),
    *("latest", "zero_to_fp32.py", "zero_to_torch.py"),
)
"""Names of files that a resume needs and weights alone don't: what stock `save_only_model` leaves out, our own,
and what DeepSpeed writes beside its directory."""
RESUME_DIRECTORIES = ("optimizer_[0-9]*", "global_step*")
"""Names of directories of which the same holds: sharded optimizers, DeepSpeed's states."""


WEIGHTS_FILES = ("*.safetensors", "pytorch_model*", "adapter_model*")
"""Names of files and directories that weights are in, whole or in shards."""


class Role(StrEnum):
    """What a file of a checkpoint is for: weights, what only a resume needs, or anything else."""

    WEIGHTS = "weights"
    OPTIMIZER = "optimizer"
    OTHER = "other"


class Kind(StrEnum):
    """What a checkpoint holds: everything a resume needs, or weights alone."""

    FULL = "full"
    WEIGHTS = "weights"


class State(StrEnum):
    """Where a checkpoint stands in its run."""

    COMMITTED = "committed"
    SET_ASIDE = "set aside"
    QUARANTINED = "quarantined"
    PREVIOUS = "of a previous run"


class Damage(StrEnum):
    """What of a checkpoint is known to be damaged, by the last check of it: nothing, or what can't be done with it."""

    NONE = ""
    RESUME = "resume"
    """What only a resume needs; its weights hold."""
    WEIGHTS = "weights"
    """What everything needs: nothing can be loaded from it."""


# Asked of every file and every checkpoint of thousands; in Python 3.11 a member costs more to find than to compare.
_OPTIMIZER, _FULL, _COMMITTED = Role.OPTIMIZER, Kind.FULL, State.COMMITTED

CHUNK_BYTES = 16 * 2**20
"""Bytes of a file that one chunk digest covers (the last one covers the rest)."""
CHUNK_DIGITS = 32
"""Hexadecimal digits of one chunk digest."""


class FileEntry(msgspec.Struct, frozen=True, gc=False, forbid_unknown_fields=True):
    """One file of a checkpoint: POSIX path relative to it, size in bytes, `xxh3-128:<hex>` digest.

    `chunks` is one string, so that thousands of checkpoints can be listed: the 32 hexadecimal digits of each 16 MiB's
    digest, one behind the other. It is empty where they are not known, and for a file of one chunk, whose own digest
    says it all. `by` is `others` where neither the training nor keepstep wrote it, and no loader reads it. Constructing
    one checks nothing: the manifest's decoder does.
    """

    # No dataclass, and left out of garbage collection: a listing of thousands of checkpoints makes a dozen of each.
    path: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    digest: str
    chunks: str = ""
    by: Literal["", "others"] = ""

    @classmethod
    def of(cls, path: str, size: int, digest: str, chunk_digests: Sequence[str]) -> FileEntry:
        """An entry from `xxh3-128:<hex>` of the file and of each of its chunks in order."""
        digits = (chunk.rpartition(":")[2] for chunk in chunk_digests) if size > CHUNK_BYTES else ()
        return cls(path, size, digest, "".join(digits))

    @property
    def chunk_digests(self) -> tuple[str, ...] | None:
        """`xxh3-128:<hex>` of each chunk in order, none for an empty file; None where they are not known."""
        if self.size <= CHUNK_BYTES:
            return (self.digest,) if self.size else ()
        if not self.chunks:
            return None
        algorithm = self.digest.partition(":")[0]
        starts = range(0, len(self.chunks), CHUNK_DIGITS)
        return tuple(f"{algorithm}:{self.chunks[start : start + CHUNK_DIGITS]}" for start in starts)

    @property
    def chunks_fit(self) -> bool:
        """True when there are as many chunk digests as the size has chunks, or none where none are due."""
        due = -(-self.size // CHUNK_BYTES) if self.size > CHUNK_BYTES else 0
        return not self.chunks or len(self.chunks) == due * CHUNK_DIGITS


class Checkpoint(msgspec.Struct, frozen=True, gc=False):
    """One committed checkpoint.

    `generation` counts commits of the run and orders them; `timeline` counts rewinds; `parent` is the
    generation that training continued from (None for the first). `created` is UTC. `metrics` holds what was
    known at the commit joined with what arrived later. `path` is where it lies now (None: not on disk) and is
    no part of the manifest, so that a run can be moved. `written_by` and `fingerprint` may be shared with other
    checkpoints. `lost` are paths of files that a resume needs, that were committed, and that somebody took out since:
    one that lost any holds weights, whatever its directory is called. `damage` is what the last check found.
    """

    # As FileEntry: what it holds never leads back to it.
    run_id: str
    generation: int
    timeline: int
    parent: int | None
    step: int
    epoch: float | None
    kind: Kind
    created: datetime
    metrics: Mapping[str, float]
    files: tuple[FileEntry, ...]
    written_by: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])
    fingerprint: Mapping[str, Any] = msgspec.field(default_factory=dict[str, Any])
    state: State = State.COMMITTED
    path: Path | None = None
    lost: tuple[str, ...] = ()
    damage: Damage = Damage.NONE

    @property
    def name(self) -> str:
        """Directory name: `checkpoint-<step>`, or `weights-<step>` of what was saved, or thinned, as weights."""
        return f"{FULL_PREFIX if self.kind is _FULL or self.lost else WEIGHTS_PREFIX}{self.step}"

    @property
    def size_bytes(self) -> int:
        """Bytes of all listed files."""
        return sum([entry.size for entry in self.files])

    @property
    def weights(self) -> tuple[FileEntry, ...]:
        """The files that stay when it is thinned: all but those that only a resume needs."""
        return tuple([entry for entry in self.files if entry.by or role_of(entry.path) is not _OPTIMIZER])

    @property
    def thinnable(self) -> bool:
        """True for a full one of this timeline that has weights, and beside them something to drop."""
        kept = self.weights
        if not self.resumable or self.spoiled or not 0 < len(kept) < len(self.files):
            return False
        return self.weights_apart

    @property
    def weights_apart(self) -> bool:
        """False where the weights lie in files that only a resume reads: a whole directory, as DeepSpeed's, holds them
        too where no other file is known for them.
        """
        nested = [entry.path for entry in self.files if "/" in entry.path]
        whole = any(_matches(path.split("/")[:-1], RESUME_DIRECTORIES) for path in nested)
        return not whole or any(role_of(entry.path) is Role.WEIGHTS for entry in self.weights)

    def thinned(self) -> Checkpoint:
        """The same checkpoint as it is when only its weights are left: of the same generation, not yet on disk."""
        return replace(self, kind=Kind.WEIGHTS, files=self.weights, path=None, lost=(), damage=Damage.NONE)

    def without(self, lost: Iterable[str]) -> Checkpoint:
        """The same checkpoint once these files, which a resume needs, are gone: it holds weights. As it is for none."""
        gone = tuple(sorted(lost))
        return replace(self, kind=Kind.WEIGHTS, lost=gone) if gone else self

    def known(self, damage: Damage) -> Checkpoint:
        """The same checkpoint, of which this damage is known."""
        return self if damage is self.damage else replace(self, damage=damage)

    @property
    def spoiled(self) -> bool:
        """True where it is known that not even its weights can be loaded."""
        return self.damage is Damage.WEIGHTS

    @property
    def resumable(self) -> bool:
        """True when it holds everything a resume needs and stands in the current timeline; it may be damaged."""
        return self.kind is _FULL and self.state is _COMMITTED

    @property
    def saved_whole(self) -> bool:
        """True when it was committed as one to resume from, in the current timeline; it may have lost files since."""
        return (self.kind is _FULL or bool(self.lost)) and self.state is _COMMITTED

    def with_metrics(self, late: Mapping[str, float]) -> Checkpoint:
        """The same checkpoint with metrics that became known after its commit."""
        return replace(self, metrics={**self.metrics, **late}) if late else self


@lru_cache(maxsize=4096)
def role_of(path: str) -> Role:
    """What the file of that path, relative to its checkpoint, is for."""
    *directories, name = path.split("/")
    if _matches([name], RESUME_FILES) or _matches(directories, RESUME_DIRECTORIES):
        return Role.OPTIMIZER
    return Role.WEIGHTS if _matches([*directories, name], WEIGHTS_FILES) else Role.OTHER


def _matches(names: list[str], patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)


_NAME = re.compile(f"({FULL_PREFIX}|{WEIGHTS_PREFIX})(0|[1-9][0-9]*)")


def parse_name(name: str) -> tuple[Kind, int] | None:
    """Kind and step of a checkpoint directory name, None when the name is not exactly one of ours."""
    if (found := _NAME.fullmatch(name)) is None:
        return None
    return (Kind.FULL if found[1] == FULL_PREFIX else Kind.WEIGHTS), int(found[2])
