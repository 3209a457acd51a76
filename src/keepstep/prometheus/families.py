"""Metric families of runs, measured anew at each scrape."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

from keepstep.errors import KeepstepError
from keepstep.model import Kind
from keepstep.operations.seeing.vitals import BOUNDS, Distribution, Vitals, VitalsReader
from keepstep.run import Exactness, open_run
from keepstep.strict import valid_text

if TYPE_CHECKING:
    from prometheus_client.core import Metric

logger = logging.getLogger("keepstep")


LABELS = ("run", "run_id")
"""Of every metric: the name of the run's directory, and the run's identity."""
Look = Callable[[], Iterable[Path]]
"""The directories of the runs to measure, as they are now."""


class RunCollector:
    """What prometheus_client asks at each scrape. Runs may come and go; each event log is read once."""

    def __init__(self, look: Look) -> None:
        self._look = look
        self._readers: dict[Path, VitalsReader] = {}
        self._left_out: set[Path] = set()
        self._guard = threading.Lock()

    def collect(self) -> Iterator[Metric]:
        with self._guard:
            found = [self._measure(path) for path in self._look()]
            measured = [one for one in found if one is not None]
            families = list(_Families(measured).all())
        yield from families

    def _measure(self, path: Path) -> tuple[list[str], Vitals] | None:
        """None for a run that can't be looked at now: it is left out, which is what an alert on absence sees."""
        try:
            run = open_run(path)
            reader = self._readers.get(path)
            if reader is None or reader.run.file != run.file:
                reader = self._readers[path] = VitalsReader(run)
            vitals = reader.read()
        except (OSError, KeepstepError) as error:
            if path not in self._left_out:
                logger.warning("no metrics of %s: %s", path, error)
            self._left_out.add(path)
            return None
        self._left_out.discard(path)
        return [valid_text(path.resolve().name), run.id], vitals


@dataclass(frozen=True, slots=True)
class _Families:
    """Makes families of what was measured; a run without a number is left out of that family."""

    measured: Sequence[tuple[list[str], Vitals]]

    def all(self) -> Iterator[Metric]:
        yield from self.counters()
        yield self.histogram("save_blocked_seconds", "Seconds that a save held the training up.",
                             lambda v: v.tally.blocked)  # fmt: skip
        yield self.histogram("save_durable_seconds", "Seconds from a save's beginning until it was durable.",
                             lambda v: v.tally.durable)  # fmt: skip
        yield from self.times()
        yield from self.standing()
        yield from self.mirror()

    def counters(self) -> Iterator[Metric]:
        """What only grows."""
        yield self.counter("saves", "Checkpoints committed.", lambda v: v.tally.commits)
        yield self.counter("saved_bytes", "Bytes of committed checkpoints.", lambda v: v.tally.committed_bytes)
        yield self.counter("freed_bytes", "Bytes of what was removed, or thinned away.", lambda v: v.tally.freed_bytes)
        yield self.counted("save_troubles", "Saves that failed, were refused for lack of room, or were skipped.",
                           {"kind": ("failed", "refused", "skipped")}, lambda v: v.tally.troubles)  # fmt: skip
        yield self.counted("checkpoints_gone", "Checkpoints removed, thinned to weights, or quarantined.",
                           {"kind": ("removed", "thinned", "quarantined")}, lambda v: v.tally.gone)  # fmt: skip
        yield self.counted("resumes", "Resumes, by how exact they were said to be at first.",
                           {"exactness": tuple(Exactness)}, lambda v: v.tally.resumes)  # fmt: skip
        yield self.counted("resume_corrections", "Resumes whose course showed another exactness, by that.",
                           {"exactness": tuple(Exactness)}, lambda v: v.tally.corrections)  # fmt: skip
        yield self.counter("resumes_proved", "Resumes whose course came out as an interrupted attempt had logged it.",
                           lambda v: v.tally.proved)  # fmt: skip
        yield self.counted("verifications", "Verifications of checkpoints, by their outcome.",
                           {"outcome": ("ok", "damaged")}, lambda v: v.tally.verifications)  # fmt: skip

    def times(self) -> Iterator[Metric]:
        """What the last save was like, and when things happened."""
        yield self.gauge("last_blocked_seconds", "Seconds that the last save held the training up.",
                         lambda v: v.tally.blocked.last)  # fmt: skip
        yield self.gauge("durability_lag_seconds", "Seconds until the last save was durable.",
                         lambda v: v.tally.durable.last)  # fmt: skip
        yield self.gauge("last_commit_timestamp_seconds", "When the last checkpoint was committed.",
                         lambda v: _timestamp(v.tally.last_commit))  # fmt: skip
        yield self.gauge("latest_verified_timestamp_seconds", "When the newest checkpoint last passed a verification.",
                         lambda v: _timestamp(v.latest_verified))  # fmt: skip

    def standing(self) -> Iterator[Metric]:
        """What there is."""
        yield self.gauge("in_use", "1 while a process holds the run's lock.", lambda v: int(v.in_use))
        yield self.gauge("latest_step", "Step of the newest checkpoint.", lambda v: v.latest and v.latest.step)
        yield self.gauge("best_step", "Step of the best checkpoint.", lambda v: v.best and v.best.step)
        yield self.best()
        yield self.gauge("full_checkpoints", "Checkpoints that can be resumed from.",
                         lambda v: sum(c.kind is Kind.FULL for c in v.checkpoints))  # fmt: skip
        yield self.gauge("weights_checkpoints", "Checkpoints of which there are only weights.",
                         lambda v: sum(c.kind is Kind.WEIGHTS for c in v.checkpoints))  # fmt: skip
        yield self.gauge("damaged_checkpoints", "Checkpoints whose last verification failed.", lambda v: v.damaged)
        yield self.gauge("checkpoint_bytes", "Bytes of all checkpoints.", lambda v: v.size_bytes)
        yield self.gauge("budget_bytes", "Bytes that the checkpoints may take.", lambda v: v.budget_bytes)
        yield self.gauge("disk_free_bytes", "Bytes free on the run's file system.", lambda v: v.room.free_bytes)
        yield self.gauge("disk_size_bytes", "Bytes of the run's file system.", lambda v: v.room.total_bytes)

    def mirror(self) -> Iterator[Metric]:
        """How far the mirror is behind, of runs that have one."""
        yield self.gauge("mirror_up", "1 while the mirror answers, as the training found last.",
                         lambda v: v.mirror and int(v.mirror.up))  # fmt: skip
        yield self.gauge("mirror_lag_seconds", "Seconds of training that would be lost with this disk; 0 for none.",
                         lambda v: v.mirror and v.mirror.lag)  # fmt: skip
        yield self.gauge("mirror_waiting_checkpoints", "Checkpoints that the mirror is to have and lacks.",
                         lambda v: v.mirror and len(v.mirror.waiting))  # fmt: skip
        yield self.gauge("mirror_waiting_bytes", "Bytes that are still to go to the mirror.",
                         lambda v: v.mirror and v.mirror.waiting_bytes)  # fmt: skip
        yield self.gauge("mirror_last_success_timestamp_seconds", "When a checkpoint last arrived in the mirror.",
                         lambda v: v.mirror and v.mirror.note.arrived)  # fmt: skip

    def gauge(self, name: str, help_: str, of: Callable[[Vitals], float | None]) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        found = GaugeMetricFamily(f"keepstep_{name}", help_, labels=LABELS)
        for labels, vitals in self.measured:
            if (value := of(vitals)) is not None:
                found.add_metric(labels, value)
        return found

    def best(self) -> Metric:
        from prometheus_client.core import GaugeMetricFamily

        found = GaugeMetricFamily("keepstep_best_value", "Metric of the best checkpoint.", labels=(*LABELS, "metric"))
        for labels, vitals in self.measured:
            if vitals.metric is not None and vitals.best_value is not None:
                found.add_metric([*labels, vitals.metric], vitals.best_value)
        return found

    def counter(self, name: str, help_: str, of: Callable[[Vitals], int]) -> Metric:
        from prometheus_client.core import CounterMetricFamily

        found = CounterMetricFamily(f"keepstep_{name}", help_, labels=LABELS)
        for labels, vitals in self.measured:
            found.add_metric(labels, of(vitals))
        return found

    def counted(
        self, name: str, help_: str, words: Mapping[str, Sequence[str]], of: Callable[[Vitals], Mapping[str, int]]
    ) -> Metric:
        """One counter for each word of a label; the words that never came count nothing."""
        from prometheus_client.core import CounterMetricFamily

        ((label, known),) = words.items()
        found = CounterMetricFamily(f"keepstep_{name}", help_, labels=(*LABELS, label))
        for labels, vitals in self.measured:
            for word in known:
                found.add_metric([*labels, word], of(vitals).get(word, 0))
        return found

    def histogram(self, name: str, help_: str, of: Callable[[Vitals], Distribution]) -> Metric:
        from prometheus_client.core import HistogramMetricFamily

        found = HistogramMetricFamily(f"keepstep_{name}", help_, labels=LABELS)
        for labels, vitals in self.measured:
            distribution = of(vitals)
            found.add_metric(labels, list(_cumulative(distribution)), distribution.total)
        return found


def _cumulative(distribution: Distribution) -> Iterator[tuple[str, float]]:
    below = 0
    for bound, count in zip((*map(str, BOUNDS), "+Inf"), distribution.counts, strict=True):
        below += count
        yield bound, below


def _timestamp(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()
