"""A display that is drawn again and again, until q or Ctrl-C."""

from __future__ import annotations

import os
import select
import signal
import sys
import time
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager

from keepstep.cli.drawing.render import Block, Output
from keepstep.cli.drawing.text import redraws

Draw = Callable[[int | None], Sequence[Block]]
"""What is to be shown in so many lines (None: as many as it takes)."""
_QUITS = b"qQ\x03"
_ENDS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def show_live(output: Output, draw: Draw, interval: float) -> None:
    """Draw every `interval` seconds on a terminal, once where there is none; q and Ctrl-C end it."""
    if not redraws(sys.stdout):
        output.frame(draw(None))
        return
    from rich.live import Live

    console = output.console
    with _keys() as pressed:
        first = output.drawn(draw(console.size.height))
        with Live(first, console=console, screen=True, auto_refresh=False, vertical_overflow="crop") as live:
            while not pressed(interval):
                live.update(output.drawn(draw(console.size.height)), refresh=True)


@contextmanager
def _keys() -> Generator[Callable[[float], bool]]:
    """A wait of so many seconds that is True, and over at once, when a key that quits is pressed.

    Ctrl-C and a termination count as such a key: raised in the middle of drawing they would leave the terminal as it
    is then.
    """
    heard, told = os.pipe()

    def tell(number: int, frame: object) -> None:
        os.write(told, _QUITS[:1])

    before = {number: signal.signal(number, tell) for number in _ENDS}
    try:
        with _one_key_at_a_time() as descriptors:
            yield lambda seconds: _wait([heard, *descriptors], seconds)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        os.close(heard)
        os.close(told)


@contextmanager
def _one_key_at_a_time() -> Generator[list[int]]:
    """Descriptors of the keyboard, which gives each key at once and shows none; none where there is no keyboard."""
    if not sys.stdin.isatty():
        yield []
        return
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor)
        yield [descriptor]
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)


def _wait(descriptors: list[int], seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            return False
        for descriptor in select.select(descriptors, [], [], left)[0]:
            keys = os.read(descriptor, 64)
            if not keys or any(key in _QUITS for key in keys):
                return True
