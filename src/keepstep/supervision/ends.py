"""How an attempt ended, told from what is known of it: status, signals, exceptions, counters, the last lines."""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum

from keepstep.errors import FULL
from keepstep.supervision.marks import End

PREEMPTED = 75
"""EX_TEMPFAIL of sysexits.h: saved and stopped, to be gone on with."""


class Kind(StrEnum):
    """What an end was."""

    DONE = "done"
    PREEMPTED = "preempted"
    INTERRUPTED = "interrupted"
    TOLD = "told to stop"
    HUNG = "hung"
    HOST_MEMORY = "out of host memory"
    GPU_MEMORY = "out of GPU memory"
    DISK_FULL = "disk full"
    DATA = "data error"
    REFUSED = "resume refused"
    IN_USE = "run in use"
    NO_START = "can't start"
    NETWORK = "network"
    SIGNAL = "signal"
    ERROR = "error"


REPEATS = frozenset({Kind.GPU_MEMORY, Kind.DISK_FULL, Kind.DATA, Kind.REFUSED, Kind.NO_START, Kind.ERROR})
"""Kinds that come again when nothing else is changed: a second time at the same place is the last."""


@dataclass(frozen=True, slots=True)
class Ending:
    """An end: its kind, the command's exit code (128 + n for signal n), a reason in words, and what tells it from
    others (`signature`, empty where nothing does); `quote` is what it said itself.
    """

    kind: Kind
    code: int
    reason: str
    signature: str = ""
    quote: str = ""
    step: int | None = None
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of an attempt that is over; `status` as `os.waitstatus_to_exitcode` gives it, `others` those of
    processes below that came to us, `told` the signals that were handed on, `tail` the last that it said on stderr,
    `stopped` what a run's event log says of a training that saved and stopped: torchrun exits with 1 whatever its
    workers exit with.
    """

    status: int
    others: Sequence[int] = ()
    told: frozenset[int] = frozenset()
    ends: Sequence[End] = ()
    stopped: str = ""
    oom_killed: bool = False
    hung: str = ""
    tail: str = ""
    step: int | None = None
    seconds: float = 0.0


def ending_of(facts: Facts) -> Ending:
    """What an attempt's end was."""
    code = facts.status if facts.status >= 0 else 128 - facts.status
    kind, reason, quote, mark = _judge(facts, code)
    step = next((end.step for end in facts.ends if end.step is not None), facts.step)
    signature = f"{kind}: {mark} at step {step}" if mark and kind in REPEATS else ""
    return Ending(kind, code, reason, signature, quote, step, facts.seconds)


def _judge(facts: Facts, code: int) -> tuple[Kind, str, str, str]:
    """Kind, reason, quotation, and what makes it recognisable."""
    if facts.hung:
        return Kind.HUNG, facts.hung, "", ""
    if facts.status == 0:
        return Kind.DONE, "it came to its end", "", ""
    cause = _cause(facts.ends)
    by_launcher = any(_SAVED_BELOW.search(text) for text in _of_launchers(facts)) or (
        bool(facts.told) and PREEMPTED in facts.others
    )
    by_itself = cause.code == PREEMPTED if cause is not None else bool(facts.stopped)
    if facts.status == -signal.SIGKILL and not facts.told and not facts.oom_killed and (by_itself or by_launcher):
        return Kind.SIGNAL, "ended by SIGKILL; what it had started was told to stop, and saved", "", ""
    if code == PREEMPTED or by_launcher or by_itself:
        return Kind.PREEMPTED, f"it was told to stop{facts.stopped and f' ({facts.stopped})'}, and saved", "", ""
    if signal.SIGINT in facts.told or facts.status in (-signal.SIGINT, 128 + signal.SIGINT):
        return Kind.INTERRUPTED, "Ctrl-C", "", ""
    if facts.told & {signal.SIGTERM, signal.SIGHUP}:
        return Kind.TOLD, f"it was told to stop, and ended with {_name(facts.status)}", "", ""
    below = _signal_below(facts)
    statuses = (facts.status, *facts.others, *([-below] if below else []))
    worker = cause is not None and _WORKER_KILLED in cause.text
    if facts.oom_killed and (worker or -signal.SIGKILL in statuses or 128 + signal.SIGKILL in statuses):
        return Kind.HOST_MEMORY, "the kernel killed it for want of host memory", "", ""
    first = below and any(_ENDED_BY.search(text.partition(_ROOT)[2]) for text in _of_launchers(facts))
    if below and (first or cause is None or _kind_of(cause) is Kind.NETWORK):
        # Whoever talked to it heard of that first.
        return Kind.SIGNAL, f"a process below it was ended by {_name(-below)}", _last_lines(facts.tail), ""
    if cause is not None and not isinstance(cause.code, int):
        return _kind_of(cause), _reason(cause), cause.trace.rstrip(), f"{cause.type} in {_place(cause)}"
    if facts.status < 0:
        return Kind.SIGNAL, f"ended by {_name(facts.status)}", _last_lines(facts.tail), ""
    return _by_words(facts.tail, code)


def _kind_of(end: End) -> Kind:
    return kind_of(end.type, end.text, end.bases, end.errno, end.files)


def _cause(ends: Sequence[End]) -> End | None:
    """The earliest that is no launcher's, which only says that a process of its own has failed; threads come last."""
    own = [end for end in ends if end.type.rpartition(".")[2] not in _LAUNCHERS]
    of_threads = [end for end in own if end.thread]
    return next((end for end in own if not end.thread), next(iter(of_threads), None))


def _of_launchers(facts: Facts) -> list[str]:
    """What launchers say of the processes that failed."""
    return [end.text for end in facts.ends if end.type.rpartition(".")[2] in _LAUNCHERS]


def _signal_below(facts: Facts) -> int:
    """The signal that ended a process of a launcher's, by the launcher's words; 0 where it names none."""
    said = _of_launchers(facts) or [facts.tail]
    found = [name for text in said for names in _ENDED_BY.findall(text) for name in names if name]
    with suppress(KeyError):
        return int(signal.Signals[found[0]]) if found else 0
    return 0


def kind_of(
    name: str, text: str, bases: Sequence[str] = (), errno: int | None = None, files: Sequence[str] = ()
) -> Kind:
    """The kind of an exception by its type, its text, its base classes, its errno, and the files of its last frames."""
    own = name.rpartition(".")[2]
    known = {own, *bases}
    if own == "KeyboardInterrupt":
        return Kind.INTERRUPTED
    if "OutOfMemoryError" in known or _GPU_MEMORY.search(text):
        return Kind.GPU_MEMORY
    if "MemoryError" in known or "DefaultCPUAllocator: can't allocate memory" in text:
        return Kind.HOST_MEMORY
    if errno in FULL or own == "DiskFull" or _DISK_FULL.search(text):
        return Kind.DISK_FULL
    if own == "RunLocked":
        return Kind.IN_USE
    if own in _REFUSED:
        return Kind.REFUSED
    if known & _NO_START:
        return Kind.NO_START
    if known & _NETWORK or _NETWORK_TEXT.search(text):
        return Kind.NETWORK
    if _OF_DATA.search(text) or any(part in file for file in files for part in _DATA_FILES):
        return Kind.DATA
    return Kind.ERROR


_LAUNCHERS = frozenset({"CalledProcessError", "ChildFailedError", "SignalException", "ProcessRaisedException",
                        "ProcessExitedException"})  # fmt: skip
_ENDED_BY = re.compile(r"died with <Signals\.(SIG\w+)|[Ss]ignal \d+ \((SIG\w+)\)|terminated with signal (SIG\w+)")
_ROOT = "Root Cause (first observed failure)"
"""What torchrun writes above the process that failed first."""
_SAVED_BELOW = re.compile(rf"exitcode\s*: {PREEMPTED}\b|exit (?:status|code) {PREEMPTED}\b")
_WORKER_KILLED = "is killed by signal: Killed"
"""What a DataLoader says of a worker."""
_GPU_MEMORY = re.compile(r"(CUDA|HIP|XPU|MPS).{0,20}out of memory|CUBLAS_STATUS_ALLOC_FAILED")
_DISK_FULL = re.compile(r"No space left on device|Disk quota exceeded|unexpected pos \d+ vs")
_REFUSED = frozenset({"ResumeRefused", "RunInUse", "CheckpointNotFound", "CheckpointCorrupt", "LayoutTooNew"})
_NO_START = frozenset({"SyntaxError", "ImportError", "SettingsError", "PolicyError", "ReferenceInvalid"})
_NETWORK = frozenset(
    {"ConnectionError", "TimeoutError", "HTTPError", "RequestException", "TransportError", "DistBackendError",
     "DistNetworkError", "DistStoreError"}
)  # fmt: skip
_NETWORK_TEXT = re.compile(
    r"Connection (reset|refused|closed)|timed out|Temporary failure in name resolution|Service Unavail"
)
_OF_DATA = re.compile(r"Caught \w+ in DataLoader worker process")
_DATA_FILES = (
    "/torch/utils/data/_utils/fetch.py",
    "/site-packages/datasets/",
    "/site-packages/pyarrow/",
    "/transformers/data/",
)
_RAISED = re.compile(
    r"^((?:\w+\.)*\w*(?:Error|Exception|Interrupt|Exit|Refused|Full|NotFound))(?::\s(.*))?$", re.MULTILINE
)
_FRAME = re.compile(r'File "([^"]+)", line (\d+)(?:, in (\S+))?')


def _by_words(tail: str, code: int) -> tuple[Kind, str, str, str]:
    """From what stands on stderr, where nothing else is known: the last exception there, the usual exit codes."""
    if code in (126, 127):
        return Kind.NO_START, f"exit code {code}: the command can't be run", _last_lines(tail), f"exit code {code}"
    raised = list(_RAISED.finditer(tail))
    if raised:
        name, text = raised[-1].groups()
        if name.rpartition(".")[2] in _LAUNCHERS:
            return Kind.ERROR, f"exit code {code}: {name}", _last_lines(tail), ""
        frames = _FRAME.findall(tail[: raised[-1].start()])
        place = "{}:{}:{}".format(*(frames[-1][0].rpartition("/")[2], frames[-1][2], frames[-1][1])) if frames else "?"
        files = [frame[0] for frame in frames[-12:]]
        kind = kind_of(name, text or "", files=files)
        if name == "ModuleNotFoundError":
            kind = Kind.NO_START
        return kind, f"{name}: {text or ''}".rstrip(": "), _last_lines(tail), f"{name} in {place}"
    kind = kind_of("", tail[-2000:])
    if code == 2 and kind is Kind.ERROR:
        kind = Kind.NO_START  # what argparse, click and most programs say of wrong usage
    return kind, f"exit code {code}", _last_lines(tail), f"exit code {code}" if kind is not Kind.ERROR else ""


def _reason(end: End) -> str:
    first = next((line for line in reversed(end.text.splitlines()) if line.strip()), "")
    if not end.text.startswith("Caught "):
        first = next(iter(end.text.splitlines()), "")
    rank = f" (rank {end.rank})" if end.rank not in (None, "0") else ""
    return f"{end.type}: {first.strip()}"[:300].rstrip(": ") + rank


def _place(end: End) -> str:
    """The frame that an exception came from; of one that a worker handed over, the frame that stands in its text."""
    frames = _FRAME.findall(end.text)
    if frames and (end.last or "").startswith("_utils.py:reraise"):
        file, line, function = frames[-1]
        return f"{file.rpartition('/')[2]}:{function}:{line}"
    return end.last or "?"


def _last_lines(tail: str, most: int = 12) -> str:
    return "\n".join([line.rpartition("\r")[2] for line in tail.splitlines() if line.strip()][-most:])


def _name(status: int) -> str:
    if status >= 0:
        return f"exit code {status}"
    with suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
