"""How long there is once a training is told to stop: said by the user, or by who started the job."""

from __future__ import annotations

import os
import re
import signal
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from keepstep.checkpointer.stopping.told import Told
from keepstep.units import format_duration, parse_duration

POD_FILES = (Path("/etc/podinfo/annotations"), Path("/etc/podinfo/labels"))
"""Where the guide mounts what Kubernetes tells a pod of itself (downward API)."""
KILL_WAIT = 30.0
"""Seconds that SLURM leaves between SIGTERM at a job's end and SIGKILL, by default (KillWait)."""
TORCHRUN = 30.0
"""Seconds that torchrun leaves its workers, unless TORCH_ELASTIC_SHUTDOWN_TIMEOUT says otherwise."""
_BEFORE_END = 60.0
"""Seconds before the end at which SLURM sends what `--signal` names, where it says no number."""
_SIGNALS = ("SBATCH_SIGNAL", "SALLOC_SIGNAL", "SLURM_SIGNAL")
_SIGNAL = re.compile(r"(?:[RB]{1,2}:)?(\w+)(?:@(\d+))?")
_GRACE = re.compile(r'^[\w./-]*terminationGracePeriodSeconds="(\d+)"', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Deadline:
    """`seconds` from the signal on, or `end` (`time.time`), after which nothing runs; `source` says who said so.

    `number` is the one signal that it is about, None for all.
    """

    source: str
    seconds: float | None = None
    end: float | None = None
    number: int | None = None

    def left(self, told: Told) -> float | None:
        """Seconds that are left now; None where this says nothing of what told the training to stop."""
        if told.signal is None or (self.number is not None and self.number != told.signal):
            return None
        if self.end is not None:
            # At the end of a job comes SIGTERM, and only some time later SIGKILL.
            late = KILL_WAIT if told.signal == signal.SIGTERM and told.at > self.end - 1.0 else 0.0
            return self.end + late - time.time()
        return told.at + (self.seconds or 0.0) - time.time()

    def __str__(self) -> str:
        if self.seconds is not None:
            return f"{format_duration(self.seconds)} by {self.source}"
        return f"{format_duration(max((self.end or 0.0) - time.time(), 0.0))} by {self.source}"


def deadlines_of(
    given: str | None, environment: Mapping[str, str] | None = None, pod: tuple[Path, ...] = POD_FILES
) -> tuple[Deadline, ...]:
    """What is known of the time there is, the source that counts first. Raises QuantityError.

    The argument, SLURM_JOB_END_TIME, `--signal` where the job's environment has it, the grace period of a pod where it
    is mounted, and what torchrun leaves.
    """
    if given is not None:
        return (Deadline("preempt_deadline", parse_duration(given, "preempt_deadline")),)
    known = os.environ if environment is None else environment
    found = (_job_end(known), _job_signal(known), _grace(pod), _torchrun(known))
    return tuple(one for one in found if one is not None)


def _job_end(environment: Mapping[str, str]) -> Deadline | None:
    text = environment.get("SLURM_JOB_END_TIME", "")
    return Deadline("SLURM_JOB_END_TIME", end=float(text)) if text.isdecimal() else None


def _job_signal(environment: Mapping[str, str]) -> Deadline | None:
    for name in _SIGNALS:
        found = _SIGNAL.fullmatch(environment.get(name, ""))
        if found is None:
            continue
        word, seconds = found.groups()
        number = int(word) if word.isdecimal() else getattr(signal, f"SIG{word.upper().removeprefix('SIG')}", None)
        if number is not None:
            return Deadline(name, float(seconds) if seconds else _BEFORE_END, number=int(number))
    return None


def _grace(pod: tuple[Path, ...]) -> Deadline | None:
    for path in pod:
        try:
            found = _GRACE.search(path.read_text(encoding="utf-8", errors="replace"))
        except OSError:
            continue
        if found is not None:
            return Deadline(str(path), float(found[1]), number=signal.SIGTERM)
    return None


def _torchrun(environment: Mapping[str, str]) -> Deadline | None:
    if "TORCHELASTIC_RUN_ID" not in environment:
        return None
    text = environment.get("TORCH_ELASTIC_SHUTDOWN_TIMEOUT", "")
    seconds = float(text) if text.isdecimal() else TORCHRUN
    return Deadline("torchrun (TORCH_ELASTIC_SHUTDOWN_TIMEOUT)", seconds)
