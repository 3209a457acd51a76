"""Every kind of end, by real processes: what it is called, whether it is tried again, and what the end means."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest

from keepstep.retention import Policy
from keepstep.run import Run as TrainedRun
from keepstep.supervision.ends import Facts, Kind, ending_of, kind_of
from keepstep.supervision.marks import End
from keepstep.supervision.memory import oom_kills, rose
from keepstep.supervision.progress import stopped_since
from tests.supervision.commands import python
from tests.supervision.conftest import Run, Start


def test_done_is_quiet_and_the_console_is_as_before(run: Run, tmp_path: Path) -> None:
    ended = run(python("print('out'); print('err', file=sys.stderr)"))
    assert (ended.code, ended.stdout, ended.stderr) == (0, "out\n", "err\n")
    assert ended.kinds == ["done"]
    assert sorted((tmp_path / "told/console.log").read_text().split()) == ["err", "out"]


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (Kind.ERROR, "def f(): raise ValueError('bad number 17')\nf()"),
        (Kind.NO_START, "import no_such_module"),
        (Kind.NO_START, "exec('def')"),
        (Kind.NO_START, "import argparse; argparse.ArgumentParser().parse_args(['--odd'])"),
        (Kind.REFUSED, "class ResumeRefused(Exception): pass\nraise ResumeRefused('another model')"),
        (Kind.GPU_MEMORY, "class OutOfMemoryError(RuntimeError): pass\nraise OutOfMemoryError('CUDA out of memory.')"),
        (Kind.DISK_FULL, "open('/dev/full', 'wb', buffering=0).write(b'x')"),
        (Kind.DATA, "raise KeyError('Caught KeyError in DataLoader worker process 0.')"),
    ],
)
@pytest.mark.quick(3)
def test_what_no_restart_makes_better_stops_at_the_second_time_and_is_quoted(run: Run, kind: Kind, text: str) -> None:
    ended = run(python(text))
    assert ended.kinds == [kind, kind]
    assert ended.code == (2 if "argparse" in text else 1)
    (report,) = ended.named("gave-up")
    assert "attempt 2" in report["report"] and "it said:\n" in report["report"]
    last = next(line for line in reversed(ended.stderr.partition("keepstep run")[0].splitlines()) if line.strip())
    assert last in report["report"]


def test_what_launchers_hide_is_told_by_the_event_log_of_the_run() -> None:
    """torchrun exits with 1; an exception that ended a training counts more than a stop before it."""
    hidden = Facts(status=1, stopped="SIGTERM")
    assert ending_of(hidden).kind is Kind.PREEMPTED
    assert ending_of(hidden).reason == "it was told to stop (SIGTERM), and saved"
    assert ending_of(Facts(status=1)).kind is Kind.ERROR
    assert ending_of(Facts(status=0, stopped="SIGTERM")).kind is Kind.DONE
    killed = Facts(status=-9, stopped="SIGTERM")
    assert ending_of(killed).kind is Kind.SIGNAL, "a launcher that was killed, whose workers we have told"
    failed = End(1, "0", 0.0, "ValueError", (), "bad", None, None, None, (), "", 3, False)
    assert ending_of(Facts(status=1, stopped="SIGTERM", ends=(failed,))).kind is Kind.ERROR


def test_a_rank_that_was_killed_counts_and_not_what_the_others_heard_of_it() -> None:
    def end(name: str, text: str, at: float) -> End:
        return End(1, "1", at, name, (), text, None, None, None, (), "", 3, False)

    heard = end("RuntimeError", "[gloo] Read error: Connection reset by peer", 1.0)
    launcher = end(
        "torch.distributed.elastic.ChildFailedError", "exitcode: -9\ntraceback: Signal 9 (SIGKILL) received", 2.0
    )
    ended = ending_of(Facts(status=1, ends=(heard, launcher)))
    assert (ended.kind, ended.reason) == (Kind.SIGNAL, "a process below it was ended by SIGKILL")
    assert ending_of(Facts(status=1, ends=(heard,))).kind is Kind.NETWORK
    odd = end("RuntimeError", "what came of it has no name that we know", 1.0)
    assert ending_of(Facts(status=1, ends=(odd, launcher))).kind is Kind.ERROR
    first = replace(launcher, text=f"Failures: none\nRoot Cause (first observed failure):\n[0]: {launcher.text}")
    assert ending_of(Facts(status=1, ends=(odd, first))).kind is Kind.SIGNAL


def test_the_last_stop_of_a_run_is_that_of_this_attempt(tmp_path: Path) -> None:
    run = TrainedRun.create(tmp_path, Policy.from_spec("latest:2"))
    began = datetime.now(UTC)
    assert stopped_since(tmp_path, began) == ""
    run.events.append("preempted", why="SIGUSR1", step=3, resumes_at=3)
    assert stopped_since(tmp_path, began) == "SIGUSR1"
    assert stopped_since(tmp_path, datetime.now(UTC)) == "", "that was another attempt"
    run.events.append("resumed", step=3, level="exact")
    assert stopped_since(tmp_path, began) == "", "and gone on with since"
    assert stopped_since(tmp_path / "nowhere", began) == ""


def test_host_memory_is_told_from_an_error_and_may_get_better(run: Run) -> None:
    limit = "import resource; resource.setrlimit(resource.RLIMIT_AS, (2**30, 2**30))\n"
    ended = run(python(f"{limit}x = bytearray(2**31) if attempt < 3 else 0"))
    assert (ended.code, ended.kinds) == (0, [Kind.HOST_MEMORY, Kind.HOST_MEMORY, Kind.DONE])


@pytest.fixture
def small_memory() -> Iterator[Callable[[], None]]:
    """Puts a process, and what it starts, into a group of processes that may have 200 MiB together."""
    size = str(200 * 2**20)
    for root, limits in (
        (Path("/sys/fs/cgroup/memory"), {"memory.limit_in_bytes": size, "memory.memsw.limit_in_bytes": size}),
        (Path("/sys/fs/cgroup"), {"memory.max": size, "memory.swap.max": "0"}),
    ):
        group = root / f"keepstep-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError as error:
            reason = str(error)
            continue
        try:
            for name, text in limits.items():
                with suppress(FileNotFoundError):  # swap is not counted everywhere
                    (group / name).write_text(text)
            if any((group / name).exists() for name in limits):
                yield lambda group=group: (group / "cgroup.procs").write_text(str(os.getpid())) and None
                return
            reason = f"{root} has no controller of memory"
        finally:
            group.rmdir()
    pytest.skip(f"memory can't be limited here: {reason}")


def test_a_kill_by_the_kernel_for_want_of_memory(start: Start, small_memory: Callable[[], None]) -> None:
    """A real one: the process is gone without a word, and the counter of its group says why."""
    grabs = "if attempt < 3: x = bytearray(b'1') * (400 * 2**20)"
    ended = start(python(grabs), preexec_fn=small_memory).wait()
    assert (ended.code, ended.kinds) == (0, [Kind.HOST_MEMORY, Kind.HOST_MEMORY, Kind.DONE])
    assert "the kernel killed it for want of host memory" in ended.stderr

    # A kill of another kind in the same group is none of that.
    ended = start(python("if attempt < 2: os.kill(os.getpid(), 9)"), preexec_fn=small_memory).wait()
    assert ended.kinds[-2:] == [Kind.SIGNAL, Kind.DONE]


def test_a_full_disk(run: Run, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("mounting is not permitted here")
    try:
        ended = run(python(f"open('{disk}/file', 'wb').write(bytes(2**20))"))
    finally:
        subprocess.run(["umount", "-l", disk], check=True)
    assert ended.kinds == [Kind.DISK_FULL] * 2
    assert "No space left on device" in ended.named("gave-up")[0]["report"]


def test_preemptions_are_counted_apart_and_are_no_failures(run: Run) -> None:
    ended = run(python("sys.exit(75 if attempt < 6 else 0)"), "--max-restarts", 0, "--crash-loop", 1)
    assert (ended.code, ended.kinds) == (0, [Kind.PREEMPTED] * 5 + [Kind.DONE])
    assert (ended.events[-1]["preemptions"], ended.events[-1]["crashes"]) == (5, 0)


def test_a_signal_is_tried_again_until_it_is_a_crash_loop(run: Run) -> None:
    ended = run(python("os.kill(os.getpid(), 11)"), "--crash-loop", 2)
    assert (ended.code, ended.kinds) == (139, [Kind.SIGNAL] * 3)
    assert "crash loop: 3 ends in a row" in ended.stderr and "SIGSEGV" in ended.stderr


def test_ends_that_differ_are_bounded_by_the_number_of_restarts(run: Run) -> None:
    ended = run(python("exec(f'def f{attempt}(): raise ValueError(attempt)'); eval(f'f{attempt}()')"),
                "--max-restarts", 2, "--crash-loop", 9)  # fmt: skip
    assert (ended.code, len(ended.kinds)) == (1, 3)
    assert "restarted 2 times" in ended.stderr


def test_the_same_end_at_another_place_is_another_end(run: Run) -> None:
    lines = "\n" * 3
    program = f"def a(): raise ValueError(1)\n{lines}def b(): raise ValueError(1)\n(a if attempt % 2 else b)()"
    assert run(python(program), "--max-restarts", 3, "--crash-loop", 9).kinds == [Kind.ERROR] * 4


def test_a_network_error_may_get_better(run: Run) -> None:
    ended = run(python("if attempt < 4: raise ConnectionError('reset')"))
    assert (ended.code, ended.kinds) == (0, [Kind.NETWORK] * 3 + [Kind.DONE])


def test_a_command_that_is_not_there(run: Run) -> None:
    ended = run(["no-such-command"])
    assert (ended.code, ended.kinds) == (127, [Kind.NO_START] * 2)
    assert "no-such-command can't be started" in ended.stderr


def test_the_earliest_of_several_ranks_is_the_cause_and_a_launcher_hides_nothing(run: Run) -> None:
    worker = "import sys, os\nraise (ValueError('the cause') if os.environ['RANK'] == '1' else RuntimeError('it left'))"
    launcher = f"""
import subprocess
one = lambda rank: subprocess.run([sys.executable, '-c', {worker!r}], env=os.environ | {{'RANK': rank}})
one('1'); one('0')
raise SystemExit(1)
"""
    ended = run(python(launcher))
    assert {event["reason"] for event in ended.events if "reason" in event} == {"ValueError: the cause (rank 1)"}


def test_a_launcher_that_fails_after_a_worker_saved_and_stopped_is_preempted(run: Run) -> None:
    worker = "import keepstep_marks as m\nm.tell_end(SystemExit(75), step=4)\nraise SystemExit(75)"
    launcher = f"import subprocess\nif attempt < 2: subprocess.run([sys.executable, '-c', {worker!r}]); sys.exit(1)"
    # The hook's directory is off the path by then, as it is for everybody.
    ended = run(python(launcher.replace("keepstep_marks as m", "keepstep.supervision.boot.keepstep_marks as m")))
    assert ended.kinds == [Kind.PREEMPTED, Kind.DONE]


def test_a_launcher_only_says_that_a_process_of_its_own_has_failed(run: Run) -> None:
    worker = "import os; os.kill(os.getpid(), 9)"
    launcher = f"import subprocess; subprocess.run([sys.executable, '-c', {worker!r}], check=True)"
    ended = run(python(f"if attempt < 4: {launcher}"))
    assert ended.kinds == [Kind.SIGNAL] * 3 + [Kind.DONE]
    assert {event["reason"] for event in ended.events[:-1] if "reason" in event} == {
        "a process below it was ended by SIGKILL"
    }


def test_what_saved_and_stopped_below_a_launcher_is_preempted(run: Run) -> None:
    launcher = "import subprocess; subprocess.run(['sh', '-c', 'exit 75'], check=True)"
    assert run(python(f"if attempt < 2: {launcher}")).kinds == [Kind.PREEMPTED, Kind.DONE]


def test_torchrun_says_which_signal_in_its_text_alone() -> None:
    text = "ChildFailedError: train.py FAILED\n  exitcode  : -9 (pid: 17)\n  traceback : Signal 9 (SIGKILL) received"
    assert ending_of(Facts(1, tail=text)).reason == "a process below it was ended by SIGKILL"
    assert ending_of(Facts(1, tail=text, oom_killed=True)).kind is Kind.HOST_MEMORY


def test_without_the_hook_the_words_on_stderr_tell(run: Run) -> None:
    ended = run(python("import no_such_module"), "--no-hook")
    assert ended.kinds == [Kind.NO_START] * 2
    assert "ModuleNotFoundError" in ended.named("gave-up")[0]["reason"]


def test_a_thread_that_dies_is_no_end(run: Run) -> None:
    ended = run(python("import threading; t = threading.Thread(target=lambda: 1 / 0); t.start(); t.join()"))
    assert (ended.code, ended.kinds) == (0, [Kind.DONE])


def test_what_the_kernel_killed_for_want_of_memory_is_told_by_its_counters(tmp_path: Path) -> None:
    """A stand-in for the files of both generations of cgroups: a real kill would take others along."""
    for cgroup, file in (("5:memory:/a", "memory/a/memory.oom_control"), ("0::/b", "b/memory.events")):
        (tmp_path / "proc/self").mkdir(parents=True, exist_ok=True)
        (tmp_path / "proc/self/cgroup").write_text(f"{cgroup}\n")
        place = tmp_path / "sys/fs/cgroup" / file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text("low 0\noom_kill 3\n")
        before = oom_kills(tmp_path)
        assert not rose(before, oom_kills(tmp_path))
        place.write_text("low 0\noom_kill 4\n")
        assert rose(before, oom_kills(tmp_path))
    assert ending_of(Facts(-9, oom_killed=True)).kind is Kind.HOST_MEMORY
    assert ending_of(Facts(-9)).kind is Kind.SIGNAL
    assert ending_of(Facts(1, others=[-9], oom_killed=True)).kind is Kind.HOST_MEMORY
    assert oom_kills(), "this machine has a counter"


@pytest.mark.parametrize(
    ("name", "text", "kind"),
    [
        ("RuntimeError", "[enforce fail] DefaultCPUAllocator: can't allocate memory", Kind.HOST_MEMORY),
        ("RuntimeError", "unexpected pos 64 vs 0", Kind.DISK_FULL),
        ("RuntimeError", "CUDA error: out of memory", Kind.GPU_MEMORY),
        ("keepstep.errors.RunLocked", "another process", Kind.IN_USE),
        ("keepstep.errors.SettingsError", "odd", Kind.NO_START),
    ],
)
def test_kinds_of_exceptions(name: str, text: str, kind: Kind) -> None:
    assert kind_of(name, text) is kind


@pytest.mark.training
def test_torch_says_so_of_memory_and_disks() -> None:
    """The words are those of the torch that is installed."""
    import torch

    assert "OutOfMemoryError" in [kind.__name__ for kind in torch.OutOfMemoryError.__mro__]
    with pytest.raises(RuntimeError) as memory:
        torch.empty(2**60)
    assert kind_of("RuntimeError", str(memory.value)) is Kind.HOST_MEMORY
    with pytest.raises(RuntimeError) as disk:
        torch.save(torch.zeros(10**6), "/dev/full")
    assert kind_of("RuntimeError", str(disk.value)) is Kind.DISK_FULL
