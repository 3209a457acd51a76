"""What differs between two checkpoints of a run: metrics, sizes, what wrote them, what a resume compares."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from keepstep.model import Checkpoint
from keepstep.run import fingerprint_differences
from keepstep.strict import finite_or_name


@dataclass(frozen=True, slots=True)
class Change:
    """One value that differs; `what` names it for people, a missing side is None. Sizes in bytes."""

    what: str
    before: Any
    after: Any

    def to_json(self) -> dict[str, Any]:
        """Plain values for machines; non-finite numbers as strings."""
        return {"what": self.what, "before": _plain(self.before), "after": _plain(self.after)}


def differences(before: Checkpoint, after: Checkpoint) -> tuple[Change, ...]:
    """Everything that differs: first metrics by name, then kind and size, files, versions, and settings by section."""
    return tuple(_differences(before, after))


def _differences(before: Checkpoint, after: Checkpoint) -> Iterator[Change]:
    yield from _values("metric", before.metrics, after.metrics)
    if before.kind is not after.kind:
        yield Change("kind", before.kind.value, after.kind.value)
    if before.timeline != after.timeline:
        yield Change("timeline", before.timeline, after.timeline)
    if before.size_bytes != after.size_bytes:
        yield Change("size", before.size_bytes, after.size_bytes)
    sizes = [{file.path: file.size for file in one.files} for one in (before, after)]
    yield from _values("file", *sizes)
    yield from _values("written by", before.written_by, after.written_by)
    for found in fingerprint_differences(before.fingerprint, after.fingerprint):
        yield Change(f"{found.section}: {found.name}", found.before, found.now)


def _values(what: str, before: Mapping[str, Any], after: Mapping[str, Any]) -> Iterator[Change]:
    for name in sorted(set(before) | set(after)):
        old, new = before.get(name), after.get(name)
        # By what is shown: one NaN is no change from another.
        if _plain(old) != _plain(new):
            yield Change(f"{what}: {name}", old, new)


def _plain(value: Any) -> Any:
    return finite_or_name(value) if isinstance(value, float) else value
