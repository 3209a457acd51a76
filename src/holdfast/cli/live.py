"""A display that is drawn again and again, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, suppress

from holdfast.cli.render import Block, Output

Draw = Callable[[int | None], Sequence[Block]]
"""What is to be shown in so many lines (None: as many as it takes)."""
_QUITS = b"qQ\x03"


def show_live(output: Output, draw: Draw, interval: float) -> None:
    """Draw every `interval` seconds on a terminal, once where there is none; q and Ctrl-C end it."""
    if not (sys.stdout.isatty() and os.environ.get("TERM") != "dumb"):
        output.frame(draw(None))
        return
    from rich.live import Live

    console = output.console
    first = output.drawn(draw(console.size.height))
    with (
        suppress(KeyboardInterrupt),
        _keys() as pressed,
        Live(first, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live,
    ):
        while not pressed(interval):
            live.update(output.drawn(draw(console.size.height)), refresh=True)


@contextmanager
def _keys() -> Generator[Callable[[float], bool]]:
    """A wait of so many seconds that is True, and over at once, when a key that quits is pressed."""
    if not sys.stdin.isatty():
        yield _sleep
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield lambda seconds: _wait(descriptor, seconds)
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(descriptor: int, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        if select.select([descriptor], [], [], left)[0]:
            keys = os.read(descriptor, 64)
            if not keys or any(key in _QUITS for key in keys):
                return True


def _sleep(seconds: float) -> bool:
    time.sleep(seconds)
    return False
