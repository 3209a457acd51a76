"""Signals, terminals, orphans and PID 1: what is handed on to whom, and that nobody is left."""

from __future__ import annotations

import os
import pty
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from keepstep.supervision.ends import Kind
from tests.supervision.commands import events, python, until
from tests.supervision.conftest import Run, Start

SAVES = """
import signal
def save(*_):
    print('saved', flush=True)
    raise SystemExit(75)
signal.signal(signal.SIG{}, save)
print('up', flush=True)
time.sleep(100)
"""
"""A training as it should be: told to stop it saves, and exits with 75."""


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_signal_is_handed_on_and_a_preemption_is_the_supervisors_too(start: Start, name: str) -> None:
    one = start(python(SAVES.format(name)))
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.tell(signal.Signals[f"SIG{name}"])
    ended = one.wait()
    assert (ended.code, ended.stdout, ended.kinds) == (75, "saved\n", [Kind.PREEMPTED])


def test_who_ends_by_the_signal_is_not_started_again(start: Start) -> None:
    one = start(python("print('up', flush=True); time.sleep(100)"))
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.tell(signal.SIGTERM)
    ended = one.wait()
    assert (ended.code, ended.kinds) == (128 + signal.SIGTERM, [Kind.TOLD])


def test_who_does_not_end_is_killed_when_the_grace_is_over(start: Start) -> None:
    one = start(
        python("import signal; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(100)"),
        "--grace", "300ms",
    )  # fmt: skip
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.tell(signal.SIGTERM)
    assert one.wait().code == 128 + signal.SIGKILL


@pytest.mark.parametrize("name", ["TERM", "USR1"])
def test_a_worker_whose_launcher_just_dies_is_told_and_waited_for(start: Start, name: str) -> None:
    """As under `accelerate launch` and `bash -c`, which end at once and tell nobody; torchrun does at a SIGUSR1."""
    worker = "import time" + SAVES.format("TERM").replace("def save(*_):", "def save(*_):\n    time.sleep(0.5)")
    one = start(["bash", "-c", '"$@"; true', "bash", sys.executable, "-c", worker])
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.tell(signal.Signals[f"SIG{name}"])
    ended = one.wait()
    assert ended.stdout == "saved\n"
    assert ended.code == 75


def test_nothing_of_an_attempt_lives_when_the_next_one_starts(run: Run, tmp_path: Path) -> None:
    """Not even what has a session of its own, as the workers of torchrun have."""
    sleeper = (
        "import os, time, signal; signal.signal(15, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(100)"
    )
    program = f"""
import subprocess
if attempt > 1:
    pid = int(open('{tmp_path}/pid').read())
    try: os.kill(pid, 0); print('it lives')
    except ProcessLookupError: print('it is gone')
    sys.exit(0)
left = subprocess.Popen([sys.executable, '-c', {sleeper!r}], start_new_session=True, stdout=subprocess.PIPE, text=True)
open('{tmp_path}/pid', 'w').write(left.stdout.readline())
os.kill(os.getpid(), 9)
"""
    assert run(python(program), "--grace", "300ms").stdout == "it is gone\n"


def test_told_between_two_attempts_it_ends_as_one_that_may_go_on_later(start: Start) -> None:
    one = start(python("sys.exit(3)"), "--backoff", "1h")
    until(lambda: any(event["event"] == "restarting" for event in events(one.place)))
    one.tell(signal.SIGTERM)
    assert one.wait().code == 75


def test_the_command_is_told_when_the_supervisor_is_killed(start: Start, tmp_path: Path) -> None:
    program = SAVES.format("TERM").replace("print('saved', flush=True)", f"open('{tmp_path}/saved', 'w')")
    one = start(python(program))
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.process.kill()
    until((tmp_path / "saved").exists)


def test_ctrl_c_is_the_terminals_to_tell_and_ends_both(tmp_path: Path) -> None:
    """The group hears it from the terminal; handed on as well, a training would hear it twice."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    text = "print(input(), flush=True)\nimport time; time.sleep(100)"
    screen = _Terminal("--no-hook", text=text, before=["strace", "-o", str(tmp_path / "calls"), "-e", "trace=kill"])
    screen.type(b"typed\n")
    screen.wait_for(b"typed\r\ntyped")
    screen.type(b"\x03")
    assert screen.end() == 130
    assert "kill(" not in (tmp_path / "calls").read_text()


def test_sigint_from_elsewhere_is_handed_on(start: Start) -> None:
    one = start(python("print('up', flush=True); time.sleep(100)"))
    assert one.process.stdout is not None and one.process.stdout.readline() == "up\n"
    one.tell(signal.SIGINT)
    ended = one.wait()
    assert (ended.code, ended.kinds) == (130, [Kind.INTERRUPTED])


def test_a_terminal_stays_one_of_the_same_size() -> None:
    program = "import os, sys\nprint([os.isatty(n) for n in (0, 1, 2)], os.get_terminal_size().columns, end='|')"
    screen = _Terminal(text=program, columns=97)
    assert screen.end() == 0
    assert b"[True, True, True] 97|" in screen.seen


class _Terminal:
    """`keepstep run` on a terminal of its own, as its session's leader."""

    def __init__(self, *options: str, text: str, columns: int = 80, before: Sequence[str] = ()) -> None:
        self.seen = b""
        self._pid, self._screen = pty.fork()
        if self._pid == 0:
            import fcntl
            import struct
            import termios

            fcntl.ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
            command = [*before, sys.executable, "-m", "keepstep", "run", *options, "--", sys.executable, "-c", text]
            os.execvp(command[0], command)

    def type(self, keys: bytes) -> None:
        os.write(self._screen, keys)

    def wait_for(self, words: bytes) -> None:
        while words not in self.seen and self._read():
            pass
        assert words in self.seen

    def end(self) -> int:
        while self._read():
            pass
        return os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])

    def _read(self) -> bool:
        try:
            data = os.read(self._screen, 4096)
        except OSError:
            return False
        self.seen += data
        return bool(data)


def test_as_pid_1_it_reaps_and_hears_sigterm(tmp_path: Path) -> None:
    unshare = ["unshare", "-pf", "--mount-proc", "--kill-child"]
    if subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode:
        pytest.skip("namespaces are not permitted here")
    program = """
import os, subprocess, signal, sys, time
def end(*_): raise SystemExit(75)
signal.signal(signal.SIGTERM, end)
subprocess.run(['bash', '-c', '(sleep 0.1; exit 3) & disown'])  # an orphan that ends by itself
while any('Z' in open(f'/proc/{p}/stat').read().rpartition(')')[2][:3] or p != str(os.getpid()) and int(p) > 1
          for p in os.listdir('/proc') if p.isdigit()):
    time.sleep(0.02)
print('alone with', os.getppid(), flush=True)
os.kill(1, signal.SIGTERM)  # heard only by who waits for it: PID 1 has no default
time.sleep(100)
"""
    command = [sys.executable, "-m", "keepstep", "run", "--", sys.executable, "-c", program]
    done = subprocess.run([*unshare, *command], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (75, "alone with 1\n"), done.stderr


def test_no_log_leaves_the_streams_to_the_command(tmp_path: Path) -> None:
    with (tmp_path / "out").open("wb") as file:
        program = f"import os; print(os.path.samestat(os.fstat(1), os.stat({str(tmp_path / 'out')!r})))"
        command = [sys.executable, "-m", "keepstep", "run", "--no-log", "--", sys.executable, "-c", program]
        subprocess.run(command, stdout=file, check=True, timeout=60)
    assert (tmp_path / "out").read_text() == "True\n"
