"""Lives of a training, each ended by a signal at a random moment; and what each of them had cost."""

from __future__ import annotations

import importlib
import os
import random
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LAUNCHER = None
"""In place of a rank: who started them, or the process itself where there is but one."""
LIMIT = 300.0
"""Seconds after a signal, or of an undisturbed life, beyond which it hangs."""
_TIRES = 3
"""Undisturbed lives in a row that come to no end, after which nobody tries again."""


@dataclass(frozen=True, slots=True)
class Life:
    """One life: who was told what, after how many seconds of its start-up or (`began`) its training; its exit code, the
    steps it began and ended with (None: it trained none), and whether something of it had to be killed.
    """

    told: str
    target: str
    after: float
    began: bool
    code: int
    seconds: float
    first: int | None
    last: int | None
    hung: bool


@dataclass(slots=True)
class Course:
    """All lives of one training; `final` the digest of its weights, empty where it came to no end."""

    lives: list[Life]
    final: str

    def lost(self) -> list[int]:
        """Steps that were trained in each life that was told to end, and were not there for the next one."""
        found: list[int] = []
        for number, life in enumerate(self.lives):
            if life.told and life.last is not None:
                later = [one.first for one in self.lives[number + 1 :] if one.first is not None]
                found.append(max(life.last - (later[0] if later else life.last if self.final else 0), 0))
        return found


def launched(kind: str, home: Path, world: int) -> subprocess.Popen[bytes]:
    """A life that torchrun starts, which hands on all the signals."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    handled = ",".join(one.name for one in (*SIGNALS, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT))
    options = ["--standalone", "--nproc-per-node", str(world), "--signals-to-handle", handled]
    words = [sys.executable, "-m", "torch.distributed.run", *options, "-m", "benchmarks.preempted.training"]
    with (home / "said").open("ab") as said:
        return subprocess.Popen(
            [*words, kind, str(home)], stdout=said, stderr=said, stdin=subprocess.DEVNULL, env=environment,
            start_new_session=True,
        )  # fmt: skip


class Forked:
    """A life as a child of this process, which has imported the libraries already: so it takes a second or two."""

    def __init__(self, kind: str, home: Path) -> None:
        live = _live_of(kind)
        self._code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            os.setsid()
            said = os.open(home / "said", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
            os.dup2(said, 1)
            os.dup2(said, 2)
            os._exit(_exit_code(live, kind, home))

    def poll(self) -> int | None:
        """Its exit code, minus a signal; None while it lives."""
        if self._code is None:
            ended, status = os.waitpid(self.pid, os.WNOHANG)
            self._code = os.waitstatus_to_exitcode(status) if ended else None
        return self._code

    def wait(self) -> int:
        """The same, once it has ended."""
        while (code := self.poll()) is None:
            time.sleep(0.02)
        return code


def _live_of(kind: str) -> Callable[[str, Path], None]:
    name = "with_lightning" if kind == "lightning" else "training"
    for library in ("lightning",) if kind == "lightning" else ("transformers.trainer", "keepstep.transformers"):
        importlib.import_module(library)
    return importlib.import_module(f"benchmarks.preempted.{name}").live


def _exit_code(live: Callable[[str, Path], None], kind: str, home: Path) -> int:
    """What a life comes to, as Python has it for a script."""
    try:
        live(kind, home)
    except SystemExit as error:
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


class Drill:
    """Signals at random moments of trainings of one kind, in `home`, a directory of its own."""

    def __init__(
        self, kind: str, home: Path, world: int, chance: random.Random, signals: Sequence[signal.Signals] = SIGNALS
    ) -> None:
        self._kind = kind
        self._home = home
        self._world = world
        self._chance = chance
        self._signals = tuple(signals)
        self._phases = (10.0, 5.0)
        if world == 1:
            _live_of(kind)  # what it imports is in no life's time
        self.whole = ""

    def undisturbed(self) -> Course:
        """One that nobody disturbs: how long it sets up and trains is what moments are drawn from."""
        course = self.run(0)
        self.whole = course.final
        (life,) = course.lives
        trained = _seconds_trained(self._home / "course-0")
        self._phases = life.seconds - trained, trained
        return course

    def run(self, count: int, look: Callable[[Path, Life], None] = lambda *_: None) -> Course:
        """One training, told to end so many times at most; `look` sees its directory and each life once it is over."""
        home = self._home / f"course-{len(list(self._home.glob('course-*')))}"
        home.mkdir(parents=True)
        course, tries = Course([], ""), 0
        while True:
            life = self._live(home, disturbed=count > sum(bool(one.told) for one in course.lives))
            course.lives.append(life)
            look(home, life)
            course.final = _text(home / "final-0")
            tries = 0 if life.told else tries + 1
            if course.final or tries >= _TIRES:
                return course

    def _live(self, home: Path, *, disturbed: bool) -> Life:
        before = _lines(home)
        started = time.monotonic()
        process = Forked(self._kind, home) if self._world == 1 else launched(self._kind, home, self._world)
        told, target, after, began = "", "", 0.0, False
        if disturbed:
            began = self._chance.random() < 0.7
            after = self._chance.uniform(0.0, self._phases[began])
            if began:
                _until(lambda: _begun(home, before) or process.poll() is not None, LIMIT)
            _until(lambda: process.poll() is not None, after)
            number = self._chance.choice(self._signals)
            rank = self._chance.choice((LAUNCHER, *range(self._world))) if self._world > 1 else LAUNCHER
            pid = process.pid if rank is LAUNCHER else _pid(home, rank, before)
            if process.poll() is None and pid is not None and _told(pid, number):
                told, target = number.name, "launcher" if rank is LAUNCHER else f"rank {rank}"
        hung = not _until(lambda: process.poll() is not None, LIMIT)
        pids = [pid for rank in range(self._world) if (pid := _pid(home, rank, before)) is not None]
        hung = not _until(lambda: not any(map(_is_alive, pids)), LIMIT if not hung else 0.0) or hung
        for pid in (process.pid, *pids) if hung else ():
            _told(pid, signal.SIGKILL)
        code = process.wait()
        first, last = _steps(home, before)
        return Life(told, target, after, began, code, time.monotonic() - started, first, last, hung)


def _lines(home: Path, rank: int = 0) -> int:
    return len(_text(home / f"diary-{rank}").splitlines())


def _diary(home: Path, before: int, rank: int = 0) -> list[tuple[str, int]]:
    lines = _text(home / f"diary-{rank}").splitlines()[before:]
    return [(what, int(number)) for what, number, _ in (line.split() for line in lines)]


def _begun(home: Path, before: int) -> bool:
    return any(what == "begin" for what, _ in _diary(home, before))


def _steps(home: Path, before: int) -> tuple[int | None, int | None]:
    """The step that the last life began after, and the last that it trained."""
    diary = _diary(home, before)
    first = next((number for what, number in diary if what == "begin"), None)
    return first, max((number for what, number in diary if what == "step"), default=None)


def _pid(home: Path, rank: int, before: int) -> int | None:
    """The process of a rank in the life that runs, where it has come so far as to say so."""
    alive = [number for what, number in _diary(home, 0, rank) if what == "alive"]
    lives = sum(what == "alive" for what, _ in _diary(home, 0)[:before])
    return alive[-1] if len(alive) > lives and _is_alive(alive[-1]) else None


def _seconds_trained(home: Path) -> float:
    """Seconds from the first begin of a training to the last line about it."""
    times = {line.split()[0]: float(line.split()[2]) for line in reversed(_text(home / "diary-0").splitlines())}
    last = float(_text(home / "diary-0").split()[-1])
    return last - times["begin"]


def _told(pid: int, number: int) -> bool:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def _is_alive(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except FileNotFoundError:
        return ""


def _until(condition: Callable[[], bool], seconds: float) -> bool:
    limit = time.monotonic() + seconds
    while not (found := condition()) and time.monotonic() < limit:
        time.sleep(0.02)
    return found
