"""A training's mirror: what is committed goes there in a thread of its own, and comes back to an empty machine."""

from __future__ import annotations

import logging
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from keepstep.checkpointer.courier import Courier
from keepstep.checkpointer.mirror_end import Left, await_mirror
from keepstep.errors import CheckpointNotFound, MirrorUnavailable, RunInUse, RunNotFound
from keepstep.mirror import open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.paths import expanded
from keepstep.retention import parse
from keepstep.run import Brought, Resume, Run, holds_run
from keepstep.units import format_duration, format_size, parse_duration, parse_size

logger = logging.getLogger("keepstep")

WAIT = "10m"
"""How long the end of a training waits for its mirror."""
_NEWEST: tuple[Resume, ...] = (True, "auto", "latest")
"""What a resume may ask for that a mirror is looked at for."""


@dataclass(frozen=True, slots=True)
class MirrorTerms:
    """Where the mirror is, what stays there (None: as in the run), how long the end of a training waits for it, in
    seconds; whether a training begins without it, and how many bytes a second may go.
    """

    address: str
    keep: str | None
    wait: float
    required: bool
    bandwidth: int | None

    @classmethod
    def of(
        cls, address: str | None, keep: str | None, wait: str, *, required: bool, bandwidth: str | None
    ) -> MirrorTerms | None:
        """None without an address. Raises SettingsError, PolicyError, QuantityError, also for an address of no kind."""
        if address is None:
            return None
        if keep is not None:
            parse(keep)
        rate = None if bandwidth is None else parse_size(bandwidth.removesuffix("/s"), "mirror_bandwidth")
        open_mirror(address)
        return cls(address, keep, parse_duration(wait, "mirror_wait"), required, rate)


class Mirroring:
    """The mirror of one training after the other. It never fails a training, but for `required` at its start."""

    def __init__(self, terms: MirrorTerms) -> None:
        self._terms = terms
        self.trial = ""
        """The trial of a search that is trained: it has a mirror of its own, below the address."""
        self._courier: Courier | None = None
        self._run: Run | None = None

    @property
    def address(self) -> str:
        """Where the mirror of what is trained now lies."""
        return f"{self._terms.address.rstrip('/')}/{self.trial}" if self.trial else self._terms.address

    def fetch(self, path: Path, resume: Resume) -> Brought | None:
        """Bring the newest that can be resumed from to `path`, where the mirror has a newer one than lies there.
        Returns what came, None where nothing did.

        Raises MirrorUnavailable where the mirror is required, CheckpointCorrupt where all there are damaged, RunLocked,
        StorageError.
        """
        mirror = open_mirror(self.address)
        self._make_home()
        try:
            found = plan_pull(mirror, path, "latest") if resume in _NEWEST or self._terms.required else None
            if found is None or found.settled or resume not in _NEWEST or not found.record.checkpoint.resumable:
                return None
            began = time.monotonic()
            step, size = found.record.checkpoint.step, format_size(found.record.checkpoint.size_bytes)
            logger.warning("Step %d comes from the mirror %s (%s)", step, mirror.url, size)
            passed: list[str] = []
            here = bring(mirror, found, older=True, on_damage=passed.append)
            for text in passed:
                logger.warning("%s", text)
            if here is None:
                logger.warning("What is here is as new as what is whole in the mirror: it counts")
                return None
            took = time.monotonic() - began
            text = "Step %d is here from the mirror after %s, every byte compared"
            logger.warning(text, here.step, format_duration(took))
            return Brought(mirror.url, here.step, here.generation, here.size_bytes, took, tuple(passed))
        except (RunNotFound, CheckpointNotFound):
            return None  # there is none yet, or nothing was committed there
        except RunInUse as error:
            logger.warning("The mirror %s is left alone: %s", mirror.url, error.message)
        except MirrorUnavailable as error:
            if self._terms.required:
                raise
            what = "this directory alone counts" if holds_run(path) else "it begins without"
            logger.warning("The mirror can't be asked, and %s: %s", what, error.message)
        return None

    def begin(self, run: Run) -> None:
        """Mirror what a run commits from now on, and what of it the mirror lacks already."""
        terms, self._run = self._terms, run
        if self._courier is not None:
            self._courier.leave()
        self._courier = Courier(run, open_mirror(self.address), terms.keep, terms.bandwidth, self._make_home)

    def end(self, left: Left) -> None:
        """Wait until all is there, as long as the terms say, or while there is time `left`; then say what is not."""
        courier, run, self._run = self._courier, self._run, None
        if courier is None or run is None:
            return
        try:
            await_mirror(courier, run, self._terms.wait, left)
        finally:
            courier.relax()

    def _make_home(self) -> None:
        """A directory that holds the mirrors of trials is made as a mirror is: where the one above is there."""
        path = self._terms.address.removeprefix("file://")
        if self.trial and "://" not in path:
            with suppress(OSError):  # what it means is said once the mirror is written
                expanded(path).mkdir()
