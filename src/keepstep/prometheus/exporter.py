"""The metrics of one training, for as long as it runs."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from keepstep.prometheus.exposition import Address, registry, serve, write_file
from keepstep.run import Event, Run

logger = logging.getLogger("keepstep")

_TOLD = frozenset(
    {"kept", "failed", "refused", "skipped", "resumed", "course", "mirrored", "mirror_down", "mirror_up", "mirror_lost"}
)
"""Events after which a text file is written anew."""


class Exporter:
    """Serves or writes them. What goes wrong with them is said once, and harms nothing."""

    def __init__(self, run: Run, target: Address | Path) -> None:
        self._measured = registry(lambda: [run.path])
        self._target = target
        self._stop: Callable[[], None] | None = None
        self._quiet = False
        self._guard = threading.Lock()
        if isinstance(target, Address):
            self._listen(target)
        else:
            self._write(target)

    def hear(self, event: Event) -> None:
        """Write the text file anew after what changes it."""
        if isinstance(self._target, Path) and event["event"] in _TOLD:
            self._write(self._target)

    def close(self) -> None:
        """Write the file a last time, or stop listening."""
        if isinstance(self._target, Path):
            self._write(self._target)
        if self._stop is not None:
            self._stop()
            self._stop = None

    def _listen(self, address: Address) -> None:
        try:
            found, self._stop = serve(self._measured, address)
        except (OSError, OverflowError) as error:
            logger.warning("no metrics at %s: %s. The training goes on without them.", address, error)
        else:
            logger.info("metrics for Prometheus at %s", found)

    def _write(self, path: Path) -> None:
        with self._guard:
            try:
                write_file(self._measured, path)
                self._quiet = False
            except OSError as error:
                if not self._quiet:
                    logger.warning("metrics could not be written to %s: %s. The training goes on.", path, error)
                self._quiet = True
