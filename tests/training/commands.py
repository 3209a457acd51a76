"""`keepstep` in processes of the warm server: as a shell starts it, without the seconds that its imports take."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.process import BaseProcess
from pathlib import Path

from keepstep.cli.main import main
from tests.training import processes


@dataclass(frozen=True)
class Done:
    """What a command left."""

    returncode: int
    stdout: str
    stderr: str


@dataclass(frozen=True)
class Command:
    """A command that was begun."""

    process: BaseProcess
    _out: Path
    _err: Path

    @property
    def stopped(self) -> bool:
        """Whether it stands still after a SIGSTOP."""
        return Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"

    def send(self, number: signal.Signals) -> None:
        """Send it a signal."""
        assert self.process.pid is not None
        os.kill(self.process.pid, number)

    def end(self) -> Done:
        """Wait for its end."""
        code = processes.end(self.process, self._err)
        return Done(code, self._out.read_text(), self._err.read_text())


@dataclass(frozen=True)
class Shell:
    """Starts commands; what they print lies in `home`. `before` is called first in a command's process."""

    home: Path

    def begin(self, *words: object, before: Callable[[], None] | None = None) -> Command:
        """Start `keepstep` with these words."""
        number = len(list(self.home.iterdir()))
        out, err = self.home / f"{number}-out", self.home / f"{number}-err"
        out.touch()
        return Command(processes.begin(_run, [*map(str, words)], out, before, log=err), out, err)

    def run(self, *words: object, before: Callable[[], None] | None = None) -> Done:
        """The same, to its end."""
        return self.begin(*words, before=before).end()


def _run(words: list[str], out: Path, before: Callable[[], None] | None) -> None:
    sys.stdout.flush()
    with out.open("ab", buffering=0) as file:
        os.dup2(file.fileno(), 1)
    os.fsync = lambda descriptor: None
    if before is not None:
        before()
    main(words, prog_name="keepstep")
