"""What a supervised process tells its supervisor: small files in one directory, named by what they say and the process.

`attached-PID.json` that it trains, `beat-PID` how far it is, `end-PID.json` why it ended, `dump-PID` its stacks.
"""

import os
import struct
import sys

PLACE = "KEEPSTEP_MARKS"
BEAT = struct.Struct("<qqd")
"""Step, phase, and the monotonic time, which all processes of a machine share."""
IDLE, STEPPING, BESIDE, STARTING = 0, 1, 2, 3
"""No training; between steps; at an epoch's ends, in an evaluation, in a save; `train()` is called, and not begun."""
_LONGEST = 4000
"""Characters of a text that are told."""


def path(what):
    """Where this process says `what`."""
    return os.path.join(os.environ[PLACE], f"{what}-{os.getpid()}")


def write(what, record):
    """Say something, whole or not at all; a full disk or a directory that went harms nobody."""
    import json
    import time

    name = path(what)
    record = {"pid": os.getpid(), "rank": os.environ.get("RANK"), "time": time.time(), **record}
    try:
        with open(f"{name}.new", "w", encoding="utf-8", errors="backslashreplace") as file:
            json.dump(record, file)
        os.replace(f"{name}.new", f"{name}.json")
    except OSError:
        pass


def hear_ends():
    """Tell of an exception that nobody catches, in the main thread and in others; then as ever."""
    before = sys.excepthook

    def heard(kind, error, trace):
        try:
            tell_end(error, trace)
        finally:
            before(kind, error, trace)

    sys.excepthook = heard
    import threading

    of_threads = threading.excepthook

    def heard_in_thread(what):
        try:
            if what.exc_value is not None:
                tell_end(what.exc_value, what.exc_traceback, thread=True)
        finally:
            of_threads(what)

    threading.excepthook = heard_in_thread


_told = [None, None]
"""The exception that was told last, and at which step: who is told of it again knows no step."""


def tell_end(error, trace=None, *, step=None, thread=False):
    """Tell what ended a training or a process. It never raises."""
    try:
        if _told[0] is error and step is None:
            step = _told[1]
        elif thread and _told[0] is not None:
            return  # what the main thread says counts
        _told[:] = [error, step]
        import traceback

        frames = traceback.extract_tb(trace or error.__traceback__)
        last = frames[-1] if frames else None
        kind = type(error)
        write(
            "end",
            {
                "type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins."),
                "bases": [base.__name__ for base in kind.__mro__],
                "text": _text(error)[-_LONGEST:],
                "errno": getattr(error, "errno", None),
                "code": getattr(error, "code", None) if isinstance(error, SystemExit) else None,
                "last": f"{os.path.basename(last.filename)}:{last.name}:{last.lineno}" if last else None,
                "files": [frame.filename for frame in frames[-12:]],
                "trace": "".join(traceback.format_exception(kind, error, error.__traceback__)[-6:])[-_LONGEST:],
                "step": step,
                "thread": thread,
            },
        )
    except Exception as problem:
        print(f"keepstep: how this ended could not be told: {problem!r}", file=sys.stderr)


def _text(error):
    try:
        return str(error)
    except Exception:
        return repr(type(error))


class Beat:
    """Says how far this process is, at the cost of a store into memory."""

    def __init__(self):
        import mmap

        with open(path("beat"), "wb+") as file:
            file.write(bytes(BEAT.size))
            file.flush()
            self._memory = mmap.mmap(file.fileno(), BEAT.size)

    def __call__(self, step, phase):
        from time import monotonic

        BEAT.pack_into(self._memory, 0, step, phase, monotonic())


def answer_dumps():
    """Let a real-time signal write the stacks of all threads; returns its number."""
    import faulthandler
    import signal

    number = signal.SIGRTMIN + 7
    file = open(path("dump"), "w")  # noqa: SIM115 - open as long as the process lives
    faulthandler.register(number, file=file, all_threads=True, chain=False)
    _open.append(file)
    return int(number)


_open = []
