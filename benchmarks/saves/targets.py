"""What keepstep must reach and aims at, as ratios of medians of one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

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

    def save(self, method: str, name: str) -> Spread | None:
        """A figure of a method's saves; the noise of an inflation is at least that of a run without saves."""
        row = self.saves.get(method)
        found = None if row is None else row.spread(name)
        if found is None or row is None or name != "inflation" or row.noise is None:
            return found
        return replace(found, noise=max(found.noise, row.noise.noise))

    def cold(self, way: str) -> Spread | None:
        """A cold load."""
        row = self.resumes.get(way)
        return None if row is None else row.cold

    def warm(self, way: str) -> Spread | None:
        """A warm load, where it was measured in a process of its own."""
        row = self.resumes.get(way)
        return row.warm if row is not None and row.apart else None

    def floor(self) -> Spread | None:
        """The write around the page cache of as many bytes."""
        return self.limits.get("O_DIRECT write and fsync")

    def read_floor(self) -> Spread | None:
        """The read around the page cache of as many bytes."""
        return self.limits.get("O_DIRECT read")


@dataclass(frozen=True, slots=True)
class Figure:
    """A value, and how far it may be off."""

    value: float
    noise: float = 0.0


@dataclass(frozen=True, slots=True)
class Target:
    """Its value is at most `must`, better at most `aim`; None means that there is no such threshold."""

    what: str
    figure: Callable[[Measured], Figure | None]
    must: float | None
    aim: float | None
    unit: str = "×"

    def verdict(self, measured: Measured) -> str:
        """`aim reached`, `passed`, `failed`, `aim missed` or `not measured`; where the noise is larger than the
        distance to the threshold that decides, that it can't be told.
        """
        figure = self.figure(measured)
        if figure is None:
            return "not measured"
        if self.aim is not None and figure.value <= self.aim:
            return _told("aim reached", figure, self.aim)
        if self.must is None:
            return _told("aim missed", figure, self.aim)
        return _told("passed" if figure.value <= self.must else "failed", figure, self.must)


def _told(verdict: str, figure: Figure, threshold: float | None) -> str:
    sure = threshold is None or abs(figure.value - threshold) > figure.noise
    return verdict if sure else f"within the noise of {threshold:.3g}"


def _ratio(of: Spread | None, to: Spread | None) -> Figure | None:
    if of is None or to is None or to.median <= 0:
        return None
    # Of a ratio near 0 the numerator's noise counts, however large it is against the numerator.
    value = of.median / to.median
    return Figure(value, (of.noise + abs(value) * to.noise) / to.median)


def _save(name: str, peer: str) -> Callable[[Measured], Figure | None]:
    return lambda m: _ratio(m.save(OURS, name), m.save(peer, name))


def _blocked(measured: Measured) -> Figure | None:
    found = measured.save(OURS, "blocked")
    return None if found is None else Figure(found.median, found.noise)


def _verification(measured: Measured) -> Figure | None:
    """What of a cold load is spent on digests: one pass with them against the same without."""
    ratio = _ratio(measured.cold("keepstep-readers-unverified"), measured.cold("keepstep-readers"))
    return None if ratio is None else Figure(1 - ratio.value, ratio.noise)


def _memory(measured: Measured) -> Figure | None:
    row = measured.saves.get(OURS)
    if row is None or row.extra_memory is None or not measured.state_bytes:
        return None
    return Figure(row.extra_memory / measured.state_bytes)


TARGETS = (
    Target("blocked per save / DCP async, thread", _save("blocked", "dcp-async"), 1 / 20, None),
    Target("blocked per save / DCP async, staging cached", _save("blocked", "dcp-async-cached"), 1 / 20, None),
    Target("blocked per save", _blocked, None, 0.005, " s"),
    Target("blocked per save / DCP async, staged beside the step", _save("blocked", "dcp-staged"), 2.0, 1.0),
    Target("true inflation / HF Trainer", _save("inflation", "stock"), 0.10, 0.03),
    Target("true inflation / DCP async, staging cached", _save("inflation", "dcp-async-cached"), 0.30, 0.10),
    Target("true inflation / DCP async, staged beside the step", _save("inflation", "dcp-staged"), 0.5, 0.3),
    Target("CPU / DCP async, staged beside the step", _save("cpu", "dcp-staged"), 0.5, 0.3),
    Target("time until durable / DCP async, staged beside the step", _save("durable", "dcp-staged"), 0.5, 0.3),
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
    Target(
        "cold verified resume / HF Trainer's cold resume, unverified",
        lambda m: _ratio(m.cold(OURS), m.cold("stock-trainer")),
        0.7,
        None,
    ),
    Target(
        "cold verified resume / O_DIRECT read of as many bytes, the limit of the disk",
        lambda m: _ratio(m.cold(OURS), m.read_floor()),
        None,
        1.2,
    ),
    Target("verification's share of a cold load", _verification, 0.15, 0.10, ""),
    Target(
        "warm verified resume / HF Trainer's warm resume, unverified, a process each",
        lambda m: _ratio(m.warm(OURS), m.warm("stock-trainer")),
        1.0,
        None,
    ),
    Target("peak extra host memory / state", _memory, 1.1, 1.02),
)
"""Blocked is compared with both DCP threads; inflation always with the better of them."""
