"""A command on a terminal of its own: keys are pressed, and all that it writes is read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import termios
import time
from collections.abc import Callable, Mapping
from pathlib import Path


def on_terminal(
    command: list[str],
    *,
    keys: Callable[[bytes], bytes] = lambda shown: b"",
    size: tuple[int, int] = (40, 80),
    env: Mapping[str, str] | None = None,
    timeout: float = 60,
) -> tuple[int, str]:
    """Exit code and output; `keys` says, by what was shown so far, what is typed next."""
    pid, terminal = pty.fork()
    if pid == 0:
        try:
            os.environ.update({"TERM": "xterm-256color", "HF_HUB_OFFLINE": "1", **(env or {})})
            os.environ.pop("COLUMNS", None)
            os.environ.pop("NO_COLOR", None) if "NO_COLOR" not in (env or {}) else None
            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
            os.execv(command[0], command)
        finally:
            os._exit(127)
    shown, deadline = b"", time.monotonic() + timeout
    try:
        while time.monotonic() < deadline:
            typed = keys(shown)
            if typed:
                os.write(terminal, typed)
            if select.select([terminal], [], [], 0.2)[0]:
                try:
                    data = os.read(terminal, 65536)
                except OSError:
                    break
                if not data:
                    break
                shown += data
        else:
            os.kill(pid, 9)
    finally:
        os.close(terminal)
        _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status), shown.decode()


def keepstep(directory: Path) -> Path:
    """An executable called `keepstep` in a directory, for shells."""
    import sys

    path = directory / "keepstep"
    path.write_text(f"#!{sys.executable}\nfrom keepstep.cli.main import main\nmain(prog_name='keepstep')\n")
    path.chmod(0o755)
    return path
