"""What people see of an error: one line, a way out, an exit code of its kind, and no traceback."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager

import click

from keepstep.cli.drawing.text import clean, paint
from keepstep.errors import KeepstepError, StorageError

INTERRUPTED = 130
BROKEN_PIPE = 141
"""What a shell reports of a process that SIGPIPE ended."""


def exit_code_of(error: BaseException) -> int | None:
    """Report an error on stderr; returns its exit code, None for one that is a bug of ours."""
    match error:
        case KeepstepError():
            _report(error.message, error.hint)
            return error.exit_code
        case BrokenPipeError():
            _silence_stdout()
            return BROKEN_PIPE
        case OSError():
            from keepstep.stores import in_words  # it brings msgspec along, which no command needs to say its help

            if (found := in_words(error)) is not None:
                _report(found.message, found.hint)
                return found.exit_code
            what = error.strerror or str(error) or type(error).__name__
            _report(f"{what}: {error.filename}" if error.filename else what)
            return StorageError.exit_code
        case KeyboardInterrupt() | click.Abort():
            click.echo("\n" * sys.stderr.isatty() + "keepstep: interrupted", err=True)
            return INTERRUPTED
        case _:
            return None


@contextmanager
def interrupts() -> Generator[Callable[[], bool]]:
    """Within it, a function that says whether Ctrl-C was pressed; it raises KeyboardInterrupt as ever.

    A library that is interrupted while it is imported may catch that, and fail with anything else a moment later.
    """
    pressed = threading.Event()

    def note(number: int, frame: object) -> None:
        pressed.set()
        raise KeyboardInterrupt

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, note)
    try:
        yield pressed.is_set
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


def _report(message: str, hint: str = "") -> None:
    lines = [f"{paint('keepstep:', 'red', sys.stderr)} {clean(message)}"]
    lines += [f"  {clean(line)}" for line in hint.splitlines()]
    click.echo("\n".join(lines), err=True)


def _silence_stdout() -> None:
    """Python flushes stdout once more at its end, which would fail again, aloud."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
