"""The supervisor: starts a command, hears signals, watches, and starts it again while that can help."""

from __future__ import annotations

import os
import shlex
import signal
import tempfile
import time
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from keepstep import layout
from keepstep.errors import KeepstepError, SettingsError
from keepstep.supervision.child import Child
from keepstep.supervision.console import Console, Log, PassedThrough, say
from keepstep.supervision.ends import PREEMPTED, Ending, Facts, Kind, ending_of
from keepstep.supervision.hangs import HangWatch
from keepstep.supervision.hook import environment, without_hook
from keepstep.supervision.marks import Marks
from keepstep.supervision.memory import oom_kills, rose
from keepstep.supervision.processes import HEARD, take_orphans
from keepstep.supervision.progress import Safe, before_newest, go_back, safe_in, stopped_since
from keepstep.supervision.report import report
from keepstep.supervision.restarts import Decision, Limits, Restarts, What
from keepstep.supervision.telling import Teller
from keepstep.units import format_duration

INTERRUPTED = 130
LOG = "console.log"
_STOPPING = frozenset({signal.SIGTERM, signal.SIGHUP})
_LOOK_SECONDS, _TEND_SECONDS = 0.5, 0.05
_HANG_GRACE = 60.0
"""Seconds that is left to a training that hangs, to save and to end, before it is killed."""
_INTERRUPTS = 3
"""The Ctrl-C that kills."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What to run, and how: times in seconds, `hang` None for never; `options` are those of `attach`, as texts."""

    command: tuple[str, ...]
    attach: bool = False
    hook: bool = True
    options: Mapping[str, str] = field(default_factory=dict[str, str])
    limits: Limits = field(default_factory=Limits)
    hang: float | None = 1800.0
    grace: float = 600.0
    log: bool = True
    log_directory: Path | None = None
    run: Path | None = None
    notify: str | None = None


class Supervisor:
    """Runs one command to its end; `run()` returns the exit code."""

    def __init__(self, settings: Settings) -> None:
        if not hasattr(signal, "sigtimedwait") or not os.path.isdir("/proc/self"):
            raise SettingsError(
                "keepstep run needs Linux, with /proc",
                hint=f"Start the command by itself: {shlex.join(settings.command)}",
            )
        self._settings = settings
        self._restarts = Restarts(settings.limits)
        self._endings: list[Ending] = []
        self._heard = frozenset(one for one in HEARD if signal.getsignal(one) is not signal.SIG_IGN)
        self._told: set[int] = set()
        self._interrupts = 0
        self._runs: dict[Path, bool] = {} if settings.run is None else {settings.run: True}
        """Directories that were trained into, and whether keepstep's own run is there."""
        self._went_on: list[Path] = []
        self._attempt = 0
        self._said_unmanaged = self._said_wrong = False

    def run(self) -> int:
        """Supervise until the end; returns what the command's end means: its code, 75 for saved and stopped, 128 + n
        for signal n. Raises SettingsError where the command can't be started at all.
        """
        before = signal.pthread_sigmask(signal.SIG_BLOCK, self._heard)
        try:
            take_orphans()
            with tempfile.TemporaryDirectory(prefix="keepstep-run-", ignore_cleanup_errors=True) as home:
                self._home = Path(home)
                self._console = Console(Log(self._home / LOG)) if self._settings.log else PassedThrough()
                self._teller = Teller(self._console.say, self._settings.notify)
                if self._settings.log_directory is not None:
                    self._settle_in(self._settings.log_directory)
                try:
                    return self._supervise()
                finally:
                    self._console.close()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _supervise(self) -> int:
        while True:
            self._attempt += 1
            began = datetime.now(UTC)
            ending = self._once()
            self._endings.append(ending)
            safe = self._safe()
            new = [one.path for one in safe if one.newest is not None and one.newest.created >= began]
            self._went_on += [path for path in new if path not in self._went_on]
            may_go_back = any(before_newest(one.path) for one in safe)
            decision = self._restarts.decide(
                ending, told=bool(self._told), committed=bool(new) if safe else None, may_go_back=may_go_back
            )
            self._tell_end(ending, decision, safe)
            if decision.what is What.STOP:
                return self._code(ending)
            if decision.what is What.GO_BACK and not self._go_back(safe):
                return self._code(ending)
            if not self._pause(decision.delay):
                return INTERRUPTED if signal.SIGINT in self._told else PREEMPTED

    # -- one attempt -----------------------------------------------------------------------------------

    def _once(self) -> Ending:
        settings = self._settings
        self._told.clear()
        self._interrupts = 0
        place = self._home / f"attempt-{self._attempt}"
        place.mkdir()
        marks, oom_before, began = Marks(place), oom_kills(), datetime.now(UTC)
        watch = HangWatch(marks, settings.hang)
        self._console.begin()
        try:
            child = Child(
                settings.command, self._environment(place), stdout=self._console.stdout, stderr=self._console.stderr
            )
        except OSError as error:
            code = 126 if isinstance(error, PermissionError) else 127
            reason = f"{settings.command[0]} can't be started: {error.strerror or error}"
            return Ending(Kind.NO_START, code, reason, reason)
        child.left_grace = min(child.left_grace, settings.grace)
        self._teller.event("started", attempt=self._attempt, command=list(settings.command), pid=child.pid)
        hung, looked = "", 0.0
        while not child.tend():
            self._hear(child)
            if time.monotonic() - looked < _LOOK_SECONDS:
                continue
            looked = time.monotonic()
            with self._harmless():
                self._find_runs(marks)
                if not hung and not self._told and (hung := watch.look(self._runs)):
                    self._end_hang(child, watch, hung)
        with self._harmless():
            self._find_runs(marks, ended=True)
            self._say_what_is_managed(marks)
        beats = marks.beats()
        return ending_of(
            Facts(
                status=child.status or 0,
                others=child.others,
                told=frozenset(self._told),
                ends=marks.ends(),
                stopped=next(filter(None, (stopped_since(one, began) for one, own in self._runs.items() if own)), ""),
                oom_killed=not child.killed and rose(oom_before, oom_kills()),
                hung=hung,
                tail=self._console.tail(),
                step=max((beat.step for beat in beats), default=None),
                seconds=time.monotonic() - child.began,
            )
        )

    @contextmanager
    def _harmless(self) -> Generator[None]:
        """What goes wrong within is said, once, and ends no training."""
        try:
            yield
        except Exception as error:
            if not self._said_wrong:
                self._said_wrong = True
                self._teller.line(f"what this training does can't be seen in full: {error!r}")

    def _environment(self, marks: Path) -> dict[str, str]:
        settings = self._settings
        if not settings.hook:
            return without_hook(os.environ, attempt=self._attempt)
        return environment(
            os.environ, marks=marks, attach=settings.attach, options=settings.options, attempt=self._attempt,
            go_on=self._went_on,
        )  # fmt: skip

    def _hear(self, child: Child) -> None:
        """Wait for the next signal, a moment at most, and hand it on."""
        heard = signal.sigtimedwait(self._heard, _TEND_SECONDS if self._told or child.status is not None else 0.25)
        if heard is None or heard.si_signo == signal.SIGCHLD:
            return
        number, of_terminal = heard.si_signo, heard.si_code > 0
        if number == signal.SIGWINCH:
            self._console.resize()
            return
        self._told.add(number)
        child.left_grace = self._settings.grace
        if number in _STOPPING:
            child.stop(number, self._settings.grace, hand_on=not of_terminal and not child.is_stopping)
        elif number == signal.SIGINT:
            self._interrupts += 1
            if self._interrupts >= _INTERRUPTS:
                self._teller.line("killed, as Ctrl-C asks for a third time")
                child.hurry(0.0)
            elif not of_terminal:  # a terminal tells the whole group by itself
                child.hand_on(number)
        else:
            child.hand_on(number)

    def _end_hang(self, child: Child, watch: HangWatch, hung: str) -> None:
        stacks = watch.stacks()
        said = f"it hangs: {hung}; it is told to stop" + (f"\nits stacks:\n{stacks}" if stacks else "")
        self._teller.event("hung", said, attempt=self._attempt, reason=hung, stacks=stacks)
        child.stop(signal.SIGTERM, min(self._settings.grace, _HANG_GRACE))

    def _find_runs(self, marks: Marks, *, ended: bool = False) -> None:
        """Know the directories that are trained into; the log goes below the first run, once a training has begun
        there: it may set aside what was in the directory.
        """
        begun = {beat.pid for beat in marks.beats() if beat.has_begun or ended}
        for one in marks.attached():
            if one.directory is None or one.pid not in begun:
                continue
            path = Path(one.directory)
            managed = one.managed and (path / layout.RUN).exists()
            self._runs[path] = self._runs.get(path, False) or managed
        for path, managed in self._runs.items():
            if managed and self._teller.place is None and (path / layout.RUN).exists():
                self._settle_in(path / layout.SUPERVISED)

    def _settle_in(self, place: Path) -> None:
        self._teller.settle_in(place)
        if isinstance(self._console, Console):
            try:
                self._console.log.move_to(place / LOG)
            except OSError as error:
                say(f"keepstep run: no log in {place}: {error.strerror or error}")

    def _say_what_is_managed(self, marks: Marks) -> None:
        if self._said_unmanaged or not self._settings.attach or marks.attached():
            return
        self._said_unmanaged = True
        self._teller.line("nothing was managed: no train() of a transformers.Trainer was called where the hook reaches")

    # -- between attempts ------------------------------------------------------------------------------

    def _safe(self) -> list[Safe]:
        found = [safe_in(path) for path, managed in self._runs.items() if managed]
        return [one for one in found if one is not None]

    def _tell_end(self, ending: Ending, decision: Decision, safe: Sequence[Safe]) -> None:
        restarts = self._restarts
        fields = {
            "attempt": self._attempt, "kind": ending.kind.value, "reason": ending.reason, "exit_code": ending.code,
            "step": ending.step, "seconds": round(ending.seconds, 3), "crashes": restarts.crashes,
            "preemptions": restarts.preemptions, "next": decision.what.value, "why": decision.why,
            "delay_seconds": round(decision.delay, 3),
            "runs": [{"path": str(one.path), "step": one.newest.step if one.newest else None} for one in safe],
        }  # fmt: skip
        if decision.failed:
            text = self._report(decision.why, safe)
            self._teller.event("gave-up", text, **fields, report=text)
        elif decision.what is What.STOP:
            quiet = ending.kind is Kind.DONE and self._attempt == 1
            self._teller.event("ended", "" if quiet else f"{ending.kind}: {ending.reason}{self._counted()}", **fields)
        else:
            step = "" if ending.step is None else f" at step {ending.step}"
            text = f"{ending.kind}{step}: {ending.reason}; {self._counted().removeprefix('; ')}"
            self._teller.event("restarting", f"{text}; again in {format_duration(decision.delay)}", **fields)

    def _counted(self) -> str:
        restarts = self._restarts
        counts = ((restarts.crashes, "crash", "crashes"), (restarts.preemptions, "preemption", "preemptions"))
        said = [f"{number} {one if number == 1 else many}" for number, one, many in counts if number]
        return f"; {' and '.join(said)} so far" if said else ""

    def _report(self, why: str, safe: Sequence[Safe]) -> str:
        log = str(self._console.log.path) if isinstance(self._console, Console) and self._teller.place else None
        return report(why, self._endings, safe, self._settings.command, log)

    def _go_back(self, safe: Sequence[Safe]) -> bool:
        """Set the newest checkpoint of each run aside; False where none could be."""
        went = False
        for one in safe:
            try:
                target = go_back(one.path)
            except (KeepstepError, OSError) as error:
                self._teller.line(f"{one.path} can't go back: {error}")
                continue
            went = True
            left = one.newest.step if one.newest else None
            text = (
                f"{one.path} goes back from step {left} to step {target.step}, once: a state or a batch may be "
                "poisoned. What is newer is set aside, on its own timeline"
            )
            self._teller.event("went-back", text, run=str(one.path), left=left, step=target.step)
        if not went:
            self._teller.line(self._report("crash loop, and no run could go back", safe))
        return went

    def _pause(self, seconds: float) -> bool:
        """Wait; False where a signal to stop came meanwhile."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0:
            heard = signal.sigtimedwait(self._heard, left)
            if heard is not None and heard.si_signo in _STOPPING | {signal.SIGINT, signal.SIGUSR1}:
                self._told.add(heard.si_signo)
                self._teller.line("told to stop, while nothing was running")
                return False
        return True

    @staticmethod
    def _code(ending: Ending) -> int:
        match ending.kind:
            case Kind.PREEMPTED:
                return PREEMPTED
            case Kind.INTERRUPTED:
                return INTERRUPTED
            case Kind.DONE:
                return 0
            case Kind.HUNG:
                return 1
            case _:
                return ending.code or 1
