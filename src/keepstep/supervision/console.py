"""What a command says: the terminal has it as before, a log has all of it, and its last lines are at hand.

A stream that is a terminal stays one for the command: it writes to a terminal in between, of the same size, whose
bytes are passed on as they are. The keyboard is the command's own.
"""

from __future__ import annotations

import fcntl
import os
import pty
import selectors
import struct
import termios
import threading
import tty
from collections import deque
from contextlib import suppress
from pathlib import Path

_CHUNK = 65536
_TAIL = 16_384
"""Bytes of stderr that are at hand."""
_HELD_SECONDS = 5.0
STDOUT, STDERR = 1, 2


class Log:
    """A file that begins anew when it is full, and keeps the older ones beside it: `console.log.1` is the last."""

    def __init__(self, path: Path, *, limit: int = 16 * 2**20, kept: int = 5) -> None:
        self.path = path
        self._limit, self._kept = limit, kept
        self._file = path.open("ab", buffering=0)

    def write(self, data: bytes) -> None:
        """Append; what can't be written is not logged."""
        with suppress(OSError, ValueError):
            if self._file.tell() + len(data) > self._limit:
                self._rotate()
            self._file.write(data)

    def move_to(self, path: Path) -> None:
        """Go on in another place, to which what was written so far is appended. Raises OSError."""
        path.parent.mkdir(parents=True, exist_ok=True)
        before = self.path.read_bytes()
        self._file.close()
        self.path.unlink(missing_ok=True)
        self.path = path
        self._file = path.open("ab", buffering=0)
        self.write(before)

    def close(self) -> None:
        """The end."""
        self._file.close()

    def _rotate(self) -> None:
        self._file.close()
        for number in range(self._kept - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(self._numbered(number), self._numbered(number + 1))
        os.replace(self.path, self._numbered(1))
        self._file = self.path.open("ab", buffering=0)

    def _numbered(self, number: int) -> Path:
        return self.path.with_name(f"{self.path.name}.{number}")


class Console:
    """Stands between a command and this process's stdout and stderr; `stdout` and `stderr` are for the command."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self._guard = threading.Lock()
        self._settled = threading.Event()
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._terminals: list[tuple[int, int]] = []
        self._selector = selectors.DefaultSelector()
        self.stdout: int = self._between(STDOUT)
        # Lines of one stream stay in their order where both lead to the same place.
        self.stderr: int = self.stdout if _same(STDOUT, STDERR) else self._between(STDERR)
        self._is_one = self.stderr == self.stdout
        self._wake, self._woken = os.pipe()
        self._selector.register(self._wake, selectors.EVENT_READ, None)
        self.resize()
        self._thread = threading.Thread(target=self._pass_on, name="keepstep-console", daemon=True)
        self._thread.start()

    def tail(self) -> str:
        """The last that the command said on stderr."""
        self._settle()
        with self._guard:
            return b"".join(self._tail).decode(errors="replace")

    def begin(self) -> None:
        """Another attempt begins: the last lines are its own."""
        self._settle()
        with self._guard:
            self._tail.clear()
            self._tail_bytes = 0

    def resize(self) -> None:
        """The command's terminal is as large as ours."""
        for end, real in self._terminals:
            with suppress(OSError):
                size = fcntl.ioctl(real, termios.TIOCGWINSZ, bytes(struct.calcsize("HHHH")))
                fcntl.ioctl(end, termios.TIOCSWINSZ, size)

    def close(self) -> None:
        """The end, once nobody writes any more: what is on its way is passed on first."""
        self._settle()
        os.write(self._woken, b"e")
        self._thread.join(_HELD_SECONDS)
        self.log.close()

    def say(self, line: str) -> None:
        """A line of the supervisor's own, after what the command has said."""
        self._settle()
        self.log.write(line.encode(errors="replace") + b"\n")
        say(line)

    def _between(self, stream: int) -> int:
        if os.isatty(stream):
            ours, theirs = pty.openpty()
            tty.setraw(theirs)
            self._terminals.append((ours, stream))
        else:
            ours, theirs = os.pipe()
        os.set_blocking(ours, False)
        self._selector.register(ours, selectors.EVENT_READ, stream)
        return theirs

    def _pass_on(self) -> None:
        while True:
            ready = self._selector.select()
            if any(key.data is None for key, _ in ready):
                word = os.read(self._wake, 1)
                while self._pass_all():
                    pass
                if word == b"e":
                    return
                self._settled.set()
                continue
            self._pass_all()

    def _settle(self) -> None:
        """Wait until what was said so far is passed on; not for ever, where a terminal is held."""
        self._settled.clear()
        os.write(self._woken, b"s")
        self._settled.wait(_HELD_SECONDS)

    def _pass_all(self) -> bool:
        """Pass on what there is; True where there was something."""
        some = False
        for key in list(self._selector.get_map().values()):
            if key.data is None:
                continue
            with suppress(BlockingIOError, OSError):
                data = os.read(key.fd, _CHUNK)
                some = some or bool(data)
                self._take(key.data, data)
        return some

    def _take(self, stream: int, data: bytes) -> None:
        self.log.write(data)
        if stream == STDERR or self._is_one:
            with self._guard:
                self._tail.append(data)
                self._tail_bytes += len(data)
                while self._tail_bytes - len(self._tail[0]) >= _TAIL:
                    self._tail_bytes -= len(self._tail.popleft())
        with suppress(OSError):  # whoever reads it has gone; the command goes on
            while data:
                data = data[os.write(stream, data) :]


class PassedThrough:
    """No log: the command has this process's stdout and stderr themselves, and nothing is known of what it says."""

    stdout = stderr = None

    def tail(self) -> str:
        """Nothing."""
        return ""

    def begin(self) -> None:
        """Nothing is to be forgotten."""

    def resize(self) -> None:
        """The command's terminal is ours."""

    def close(self) -> None:
        """Nothing is on its way."""

    def say(self, line: str) -> None:
        """A line of the supervisor's own."""
        say(line)


def say(line: str) -> None:
    """A line on stderr, whoever still reads it."""
    with suppress(OSError):
        os.write(STDERR, line.encode(errors="replace") + b"\n")


def _same(one: int, other: int) -> bool:
    """True when two streams lead to the same file, pipe or terminal."""
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False
