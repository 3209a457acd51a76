"""The raw loop with one thing broken on purpose, in processes that are forked: what each flaw is, as a function.

They are forked from a process of this module alone (`Forks`): a fork of all that tests have imported takes many times
as long.
"""

from __future__ import annotations

import gc
import os
import shutil
import signal
import socket
import subprocess
import sys
import traceback
from array import array
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NoReturn

import filelock  # noqa: F401 - what is imported here is imported once, not in every fork

from keepstep import layout
from keepstep.checkpointer import Checkpointer, headroom
from keepstep.errors import StorageError
from keepstep.repository import Verification
from keepstep.retention import Metric, Policy
from keepstep.run import Exactness, Receipt
from keepstep.testing import integration_trap  # noqa: F401
from keepstep.testing.integration_course import Course
from keepstep.testing.integration_process import play
from tests.integrations import raw_loop
from tests.integrations.raw_loop import WEIGHTS, Loop, RawLoop

Flaw = Callable[[], None]
"""Breaks something in the process that calls it."""


class Forks:
    """A small process that forks itself for each training."""

    def __init__(self, address: Path) -> None:
        self._address = str(address)

    @classmethod
    @contextmanager
    def running(cls) -> Generator[Forks]:
        """One for as long as the block runs."""
        with TemporaryDirectory() as directory:
            address = Path(directory, "forks")
            command = [sys.executable, "-m", __name__, str(address)]
            with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parents[2]) as process:
                try:
                    assert process.stdout is not None and process.stdout.readline() == b"ready\n"
                    yield cls(address)
                finally:
                    process.kill()

    def play(self, flaw: Flaw, course: Course) -> int:
        """Play a course in a fork that makes a flaw; returns its exit code, as `subprocess` does."""
        with socket.socket(socket.AF_UNIX) as connection, connection.makefile("rw") as lines:
            connection.connect(self._address)
            print(flaw.__name__, course, file=lines, flush=True)
            return int(lines.readline())

    @staticmethod
    def serve(address: str) -> NoReturn:
        """Fork for whoever asks, until it is killed."""
        signal.signal(signal.SIGCHLD, signal.SIG_IGN)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(address)
            listening.listen()
            print("ready", flush=True)
            while True:
                connection, _ = listening.accept()
                with connection:
                    if os.fork() == 0:
                        _answer_and_exit(connection)


def _answer_and_exit(connection: socket.socket) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    lines = connection.makefile("rw")
    flaw, _, course = lines.readline().partition(" ")
    child = os.fork()
    if child == 0:
        _play_and_exit(globals()[flaw], Course.parse(course))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=lines, flush=True)
    os._exit(0)


class FlawedLoop(RawLoop):
    """Trains in a fork of a small process, in which the flaw is made."""

    def __init__(self, flaw: Flaw, forks: Forks) -> None:
        self.flaw = flaw
        self.forks = forks

    def train(self, course: Course) -> int:
        return self.forks.play(self.flaw, course)

    def read_with_stock_tools(self, checkpoint: Path) -> Mapping[str, str]:
        if self.flaw is needs_keepstep_to_be_read:
            assert (checkpoint.parent / layout.META).exists()
        return super().read_with_stock_tools(checkpoint)


def _play_and_exit(flaw: Flaw, course: Course) -> NoReturn:
    code: Any = 1
    gc.disable()  # a collection would copy the memory that the fork shares
    try:
        sys.stdout = sys.stderr = course.log.open("a", buffering=1)
        os.fsync = lambda descriptor: None
        flaw()
        play(course, raw_loop.train)
        code = 0
    except SystemExit as exit_:
        code = exit_.code
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


# -- resuming ----------------------------------------------------------------------------------------------


def none() -> None:
    """Nothing is broken."""


def forgets_its_momentum() -> None:
    _after(Loop, "read", lambda loop, _: setattr(loop, "momentum", array("d", bytes(8 * len(loop.weights)))))


def forgets_what_it_logged() -> None:
    _after(Loop, "read", lambda loop, _: loop.log.clear())


def notes_no_receipt() -> None:
    Checkpointer.note_resumed = lambda self, receipt: None


def calls_a_resume_approximate() -> None:
    def modest(self: Receipt) -> Exactness:
        return Exactness.APPROXIMATE

    Receipt.level = property(modest)


def removes_the_old_before_the_new_is_there() -> None:
    def remove(_: Loop, directory: Path) -> None:
        for old in _run_of(directory).glob("checkpoint-*"):
            shutil.rmtree(old)

    _before(Loop, "write", remove)


def writes_where_it_can_be_seen() -> None:
    def write(loop: Loop, directory: Path) -> None:
        seen = _run_of(directory) / directory.name
        seen.mkdir(exist_ok=True)
        (seen / WEIGHTS).write_bytes(loop.weights.tobytes())

    _before(Loop, "write", write)


# -- damage ------------------------------------------------------------------------------------------------


def loads_what_is_damaged() -> None:
    begin = Checkpointer.begin
    Checkpointer.begin = lambda self, resume: begin(self, resume, check=lambda c: Verification(c, ()))


def passes_over_in_silence() -> None:
    raw_loop.receipt = lambda point: Receipt(point.checkpoint.step, str(point.path))


def throws_away_what_is_damaged() -> None:
    _after(Checkpointer, "begin", lambda self, _: shutil.rmtree(self.path / layout.QUARANTINE, ignore_errors=True))


# -- keeping -----------------------------------------------------------------------------------------------


def ranks_upside_down() -> None:
    raw_loop.Metric = lambda name, mode: Metric(name, "min")


def keeps_the_newest_alone() -> None:
    original = Policy.from_spec
    Policy.from_spec = lambda spec, metric: original("latest:3" if "best" in spec else spec, metric)


def stock_tools_find_the_weights_of_before() -> None:
    """Its own resume reads others, which are right."""
    before: list[bytes] = []

    def write(loop: Loop, directory: Path) -> None:
        (directory / "weights.bin").write_bytes(loop.weights.tobytes())
        (directory / WEIGHTS).write_bytes(before[-1] if before else bytes(8))
        before.append(loop.weights.tobytes())

    def read(loop: Loop, directory: Path) -> None:
        loop.weights = array("d", (directory / "weights.bin").read_bytes())
        before.append(loop.weights.tobytes())

    _after(Loop, "write", write)
    _after(Loop, "read", read)


def needs_keepstep_to_be_read() -> None:
    """See `FlawedLoop.read_with_stock_tools`."""


# -- others, and a full disk ---------------------------------------------------------------------------------


def takes_a_lock_of_its_own() -> None:
    layout.LOCK = f"{layout.META}/lock-{os.getpid()}"


def dies_of_a_full_disk() -> None:
    def refuse(self: Checkpointer, step: int, error: StorageError) -> NoReturn:
        raise RuntimeError("no room") from error

    Checkpointer.refuse = refuse


def gives_up_the_best_first() -> None:
    original = headroom.fit
    headroom.fit = lambda plan, limit, metric, **options: original(plan, limit, None, **options)


# -- helpers -----------------------------------------------------------------------------------------------


def _before(kind: type[Any], name: str, call: Callable[..., Any]) -> None:
    original = getattr(kind, name)

    def method(self: Any, argument: Any) -> Any:
        call(self, argument)
        return original(self, argument)

    setattr(kind, name, method)


def _after(kind: type[Any], name: str, call: Callable[..., Any]) -> None:
    original = getattr(kind, name)

    def method(self: Any, argument: Any) -> Any:
        result = original(self, argument)
        call(self, argument)
        return result

    setattr(kind, name, method)


def _run_of(staged: Path) -> Path:
    """The run directory that a staged checkpoint is for: it lies in `.keepstep/staging/<uuid>`."""
    return staged.parents[3]


if __name__ == "__main__":
    Forks.serve(sys.argv[1])
