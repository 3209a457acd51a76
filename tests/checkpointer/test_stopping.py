"""What tells a training to stop, and how long there is then."""

from __future__ import annotations

import faulthandler
import os
import signal
import time
from pathlib import Path

import pytest

from keepstep.checkpointer import Checkpointer, Preemption, Told
from keepstep.checkpointer.stopping.deadline import deadlines_of
from keepstep.checkpointer.stopping.limits import StopFile, TimeLimit
from keepstep.checkpointer.stopping.signals import Signals
from keepstep.errors import QuantityError
from keepstep.run import Requests, Run
from tests.small_run import save

NOWHERE = (Path("/nowhere"),)


def left(
    environment: dict[str, str], told: Told, *, given: str | None = None, pod: tuple[Path, ...] = NOWHERE
) -> float:
    """Whole seconds that are left by the first source that knows; -1000 where none does."""
    found = (one.left(told) for one in deadlines_of(given, environment, pod))
    return round(next((seconds for seconds in found if seconds is not None), -1000.0))


def test_how_long_there_is_is_told_by_the_first_that_knows(tmp_path: Path) -> None:
    now = time.time()
    term, usr1 = Told("SIGTERM", signal.SIGTERM, now), Told("SIGUSR1", signal.SIGUSR1, now)
    slurm = {"SLURM_JOB_END_TIME": str(round(now + 200)), "SBATCH_SIGNAL": "B:USR1@90"}
    pod = tmp_path / "annotations"
    pod.write_text('a="b"\nkeepstep.io/terminationGracePeriodSeconds="120"\n')
    torchrun = {"TORCHELASTIC_RUN_ID": "x"}
    assert left(slurm, usr1, given="40s") == 40
    assert left(slurm, usr1) == pytest.approx(200, abs=1)
    assert left({"SBATCH_SIGNAL": "B:USR1@90"}, usr1) == 90
    assert left({"SBATCH_SIGNAL": "10@90"}, usr1) == 90
    assert left({"SBATCH_SIGNAL": "USR1"}, usr1) == 60
    assert left({"SBATCH_SIGNAL": "B:USR1@90"}, term) == -1000, "it says nothing of another signal"
    assert left({}, term, pod=(pod,)) == 120
    assert left(torchrun, term) == 30
    assert left(torchrun | {"TORCH_ELASTIC_SHUTDOWN_TIMEOUT": "8"}, term) == 8
    assert left(slurm, Told("max_time")) == -1000, "nobody kills for the user's own limits"
    assert left({}, term) == -1000
    assert left({"SLURM_JOB_END_TIME": str(round(now))}, term) == pytest.approx(30, abs=1), "SIGKILL comes later"


def test_limits_of_the_users_own(tmp_path: Path) -> None:
    now = [0.0]
    limit = TimeLimit("1h30m", lambda: now[0])
    limit.start()
    now[0] = 5_399.0
    assert limit.look() is None
    now[0] = 5_400.0
    over = limit.look()
    assert over is not None
    assert over.why == "max_time 1h30m"
    file = StopFile("STOP")
    file.start(tmp_path)
    assert file.look() is None
    (tmp_path / "STOP").touch()
    told = file.look()
    assert told is not None
    assert told.why == f"stop_file {tmp_path / 'STOP'}"
    with pytest.raises(QuantityError, match="max_time"):
        TimeLimit("1h30")


def test_a_handler_that_is_none_of_pythons_stays_in_force(tmp_path: Path) -> None:
    """Stack dumps on SIGUSR1 are what faulthandler is often asked for."""
    heard: list[Told] = []
    with (tmp_path / "stacks").open("w+") as stacks:
        faulthandler.register(signal.SIGUSR1, file=stacks)
        try:
            with Signals().heard(heard.append):
                os.kill(os.getpid(), signal.SIGUSR1)
                os.kill(os.getpid(), signal.SIGUSR2)
        finally:
            faulthandler.unregister(signal.SIGUSR1)
        assert "test_a_handler_that_is_none" in (tmp_path / "stacks").read_text()
    assert [told.why for told in heard] == ["SIGUSR2"]


def test_a_loop_of_ones_own_hears_requests_and_answers_them(tmp_path: Path) -> None:
    path = tmp_path / "run"
    checkpointer = Checkpointer(path, "latest:3", stop_file="STOP")
    checkpointer.begin(None)
    assert checkpointer.heed(1) is None
    asked = Requests(Run.open(path).store)
    asked.ask("save")
    assert checkpointer.heed(2) is None
    assert checkpointer.stopping.take_save() and not checkpointer.stopping.take_save()
    save(checkpointer, 2)
    asked.ask("stop")
    told = checkpointer.heed(3)
    assert told is not None and told.why.startswith("keepstep stop")
    checkpointer.preempted = Preemption(told.why, 3, 2, 1)
    checkpointer.close()
    log = [event for event in Run.open(path).events.read() if event["event"] in ("requested", "answered", "preempted")]
    assert [(event["event"], event.get("what"), event.get("done")) for event in log] == [
        ("requested", "save", None), ("answered", "save", True), ("requested", "stop", None), ("preempted", None, None),
        ("answered", "stop", True),
    ]  # fmt: skip
    assert checkpointer.stopping.told is None
