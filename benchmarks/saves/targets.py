"""What keepstep must reach and aims at, as ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks.saves.estimator import Spread
from benchmarks.saves.tables import ResumeRow, SaveRow

OURS = "keepstep"


@dataclass(frozen=True, slots=True)
class Measured:
    """What the ratios are made of; figures that were not measured are absent."""

    saves: dict[str, SaveRow]
    resumes: dict[str, ResumeRow]
    limits: dict[str, Spread]
    state_bytes: int

    def save(self, method: str, name: str) -> float | None:
        """Median of a figure of a method's saves."""
        row = self.saves.get(method)
        return None if row is None else row.median(name)

    def cold(self, way: str) -> float | None:
        """Median of a cold load."""
        row = self.resumes.get(way)
        return None if row is None or row.cold is None else row.cold.median

    def floor(self) -> float | None:
        """The write around the page cache of as many bytes."""
        row = self.limits.get("O_DIRECT write and fsync")
        return None if row is None else row.median


@dataclass(frozen=True, slots=True)
class Target:
    """`value` is at most `must`, better at most `aim`; None means that there is no such threshold."""

    what: str
    value: Callable[[Measured], float | None]
    must: float | None
    aim: float | None
    unit: str = "×"

    def verdict(self, measured: Measured) -> str:
        """`aim reached`, `passed`, `failed` or `not measured`."""
        value = self.value(measured)
        if value is None:
            return "not measured"
        if self.aim is not None and value <= self.aim:
            return "aim reached"
        if self.must is None:
            return "aim missed"
        return "passed" if value <= self.must else "failed"


def _ratio(of: float | None, to: float | None) -> float | None:
    return None if of is None or to is None or to <= 0 else of / to


def _save(name: str, peer: str) -> Callable[[Measured], float | None]:
    return lambda m: _ratio(m.save(OURS, name), m.save(peer, name))


def _memory(measured: Measured) -> float | None:
    row = measured.saves.get(OURS)
    return None if row is None else _ratio(row.extra_memory, float(measured.state_bytes))


TARGETS = (
    Target("blocked per save / DCP async, thread", _save("blocked", "dcp-async"), 1 / 20, None),
    Target("blocked per save / DCP async, staging cached", _save("blocked", "dcp-async-cached"), 1 / 20, None),
    Target("blocked per save", lambda m: m.save(OURS, "blocked"), None, 0.005, " s"),
    Target("true inflation / HF Trainer", _save("inflation", "stock"), 0.10, 0.03),
    Target("true inflation / DCP async, staging cached", _save("inflation", "dcp-async-cached"), 0.30, 0.10),
    Target("true inflation / Moonclip", _save("inflation", "moonclip"), 1.0, 0.5),
    Target("time until durable / Moonclip", _save("durable", "moonclip"), 1.0, 0.5),
    Target("cold verified resume / Moonclip's cold load", lambda m: _ratio(m.cold(OURS), m.cold("moonclip")), 1.0, 0.5),
    Target("time until durable / O_DIRECT floor", lambda m: _ratio(m.save(OURS, "durable"), m.floor()), 1.6, 1.2),
    Target(
        "cold verified resume / torch.load and safetensors, cold, unverified",
        lambda m: _ratio(m.cold(OURS), m.cold("stock")),
        0.8,
        0.6,
    ),
    Target("peak extra host memory / state", _memory, 1.1, 1.02),
)
"""Blocked is compared with both DCP threads; inflation always with the better of them."""
