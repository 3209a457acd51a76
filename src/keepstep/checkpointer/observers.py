"""Who looks on while a training runs: the user's hooks, metrics for Prometheus, and the mirror."""

from __future__ import annotations

from keepstep.checkpointer.mirror_end import Left
from keepstep.checkpointer.mirroring import Mirroring, MirrorTerms
from keepstep.prometheus import Exporter, parse_target
from keepstep.run import Hooks, Run


class Observers:
    """They hear the events of one run after the other. `prometheus` is an address or a file (`parse_target`)."""

    def __init__(self, hooks: Hooks | None, prometheus: str | None, mirror: MirrorTerms | None = None) -> None:
        self._hooks = hooks or Hooks()
        self._target = None if prometheus is None else parse_target(prometheus)
        self._exporter: Exporter | None = None
        self.mirroring = None if mirror is None else Mirroring(mirror)

    def begin(self, run: Run) -> None:
        """Listen to a run. Raises SettingsError where prometheus-client is missing."""
        run.events.listeners.append(self._hooks.hear)
        if self._target is not None:
            self._exporter = Exporter(run, self._target)
            run.events.listeners.append(self._exporter.hear)

    def mirror(self, run: Run) -> None:
        """Keep the run's mirror from now on; the policy must be this session's by now."""
        if self.mirroring is not None:
            self.mirroring.begin(run)

    def end(self, left: Left) -> None:
        """The run is given back: the mirror is waited for, while there is time `left`, and metrics are written a last
        time; no error when nothing was begun.
        """
        try:
            if self.mirroring is not None:
                self.mirroring.end(left)
        finally:
            exporter, self._exporter = self._exporter, None
            if exporter is not None:
                exporter.close()
