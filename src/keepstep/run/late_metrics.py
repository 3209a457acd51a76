"""Metrics that became known after their checkpoint's commit: in the event log, or in memory until there is room."""

from __future__ import annotations

from pathlib import Path

from keepstep.errors import FULL
from keepstep.log import logger
from keepstep.run.events import EventLog


class LateMetrics:
    """Late metrics of the run in `path`, those included that a full disk did not take yet."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._unwritten: list[tuple[int, dict[str, float]]] = []

    def record(self, events: EventLog, generation: int, metrics: dict[str, float]) -> None:
        """Write them, after what still waits. Raises OSError, but for want of room: then they wait in memory."""
        self._unwritten.append((generation, metrics))
        try:
            while self._unwritten:
                found = self._unwritten[0]
                events.append("metrics", generation=found[0], metrics=found[1])
                self._unwritten.pop(0)
        except OSError as error:
            if error.errno not in FULL:
                raise
            logger.warning("Metrics of %s wait in memory for room on the disk: %s", self._path, error)

    def known(self, events: EventLog) -> dict[int, dict[str, float]]:
        """All of them by generation."""
        late = events.late_metrics()
        for generation, metrics in self._unwritten:
            late[generation] = {**late.get(generation, {}), **metrics}
        return late
