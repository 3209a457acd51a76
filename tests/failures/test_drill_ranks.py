"""Real signals at random moments of trainings on two ranks: all save the same step, and none waits for another.

`KEEPSTEP_TEST_SIGNALS` says how many signals.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
import socket
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from benchmarks.preempted.lives import Drill, Life
from benchmarks.preempted.training import KEEPSTEP
from transformers import TrainerCallback

from keepstep import Preempted
from keepstep.errors import RunNotFound
from tests.failures.build import events, managed, same, steps, weights
from tests.failures.test_drill import SETTINGS, Slow

pytestmark = [pytest.mark.training, pytest.mark.campaign, pytest.mark.timeout(3600)]

WORLD = 2
SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2)
LONGEST = 120.0
"""Seconds that ranks are given to end; they hang beyond that."""
FAILED, BEFORE = 1, 130


class Begins(TrainerCallback):
    """Says that a training is set up."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._path.touch()


class Ranks:
    """Two processes that train together, as a launcher has them: where one fails it tells the other to end."""

    def __init__(self, out: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.out, self.began = out, out.parent / "began"
        self.began.unlink(missing_ok=True)
        self.pids = [self._begin(rank, port) for rank in range(WORLD)]
        self.codes: dict[int, int] = {}

    def _begin(self, rank: int, port: int) -> int:
        child = os.fork()
        if child:
            return child
        code = FAILED
        try:
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": WORLD, "LOCAL_WORLD_SIZE": WORLD}
            os.environ |= {name: str(number) for name, number in numbers.items()}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "OMP_NUM_THREADS": "1"}
            trainer, _ = managed(self.out, callbacks=[Slow(), Begins(self.began)], ddp_backend="gloo", **SETTINGS)
            trainer.train(resume_from_checkpoint="auto")
            if rank == 0:
                _leave(self.out, trainer)
            code = 0
        except Preempted as preempted:
            code = preempted.code
        except BaseException:
            (self.out.parent / f"failed-{rank}").write_text(traceback.format_exc())
        finally:
            os._exit(code)

    def look(self) -> bool:
        """True once all have ended; what a launcher does meanwhile is done."""
        for rank, pid in enumerate(self.pids):
            if rank in self.codes:
                continue
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                self.codes[rank] = os.waitstatus_to_exitcode(status)
                if self.codes[rank]:
                    self.tell(signal.SIGTERM)
        return len(self.codes) == WORLD

    def wait(self, seconds: float, *, begins: bool = False) -> bool:
        """Whether all have ended within so much time, or (`begins`) until the training is set up."""
        limit = time.monotonic() + seconds
        while not (ended := self.look()) and time.monotonic() < limit and not (begins and self.began.exists()):
            time.sleep(0.01)
        return ended

    def tell(self, number: int, *ranks: int) -> None:
        """Send a signal to these, or to all, that live."""
        for rank in ranks or range(WORLD):
            if rank not in self.codes:
                os.kill(self.pids[rank], number)


def _leave(out: Path, trainer: Any) -> None:
    import torch

    torch.save(weights(trainer.model), out.parent / "final.pt")


def _final(out: Path) -> Any:
    import torch

    return torch.load(out.parent / "final.pt")


def _trained(out: Path) -> list[dict[str, Any]]:
    try:
        return events(out, "preempted")
    except RunNotFound:
        return []


def _lived(out: Path, chance: random.Random, phases: tuple[float, float] | None) -> tuple[dict[int, int], str]:
    """One life, told to end at a random moment of its start-up or of its training, which take so long; exit codes, and
    the signal, empty where it had ended before, or nobody was to tell it.
    """
    before, ranks = len(_trained(out)), Ranks(out)
    told, trains = "", chance.random() < 0.75
    if (
        phases is not None
        and not ranks.wait(LONGEST * trains, begins=True)
        and not ranks.wait(chance.uniform(0.0, phases[trains]))
    ):
        number, target = chance.choice(SIGNALS), chance.choice([(), (0,), (1,)])
        ranks.tell(number, *target)
        told = number.name
    if not ranks.wait(LONGEST):
        ranks.tell(signal.SIGKILL)
        ranks.wait(LONGEST)
        # One that waits to meet another, which ended before they met, hears nothing: its launcher kills it, and nothing
        # had been trained.
        if not told or ranks.began.exists():
            pytest.fail(f"{told}: one waits for another: {ranks.codes}")
    new = _trained(out)[before:]
    if set(ranks.codes.values()) == {75}:
        (stopped,) = new
        assert stopped["lost_steps"] == 0, stopped
        assert (stopped["resumes_at"] or 0) == stopped["step"] == (steps(out) or [0])[-1]
        # One that is started later is told by the launcher, which has heard of the other's end.
        assert stopped["why"].removesuffix(" to rank 1") in (told, "SIGTERM"), (told, stopped)
    return ranks.codes, told


def test_signals_to_two_ranks_at_random_moments(tmp_path: Path) -> None:
    count = int(os.environ.get("KEEPSTEP_TEST_SIGNALS", "12"))
    seed = int(os.environ.get("KEEPSTEP_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    chance, found, told = random.Random(seed), dict[tuple[int, ...], int](), 0
    whole = tmp_path / "whole/run"
    whole.parent.mkdir()
    times = [time.monotonic()]
    ranks = Ranks(whole)
    ranks.wait(LONGEST, begins=True)
    times.append(time.monotonic())
    assert ranks.wait(LONGEST) and set(ranks.codes.values()) == {0}, _said(whole)
    times.append(time.monotonic())
    phases = times[1] - times[0], times[2] - times[1]
    runs = itertools.count()
    while told < count:
        out = tmp_path / f"{next(runs)}/run"
        out.parent.mkdir()
        while not (out.parent / "final.pt").exists():
            codes, by = _lived(out, chance, phases if told < count else None)
            told += bool(by)
            key = tuple(codes[rank] for rank in range(WORLD))
            found[key] = found.get(key, 0) + 1
            last = sorted(steps(out))[-1:] if (out / ".keepstep").exists() else []
            assert by or key == (0, 0), (key, last, _said(out))
        assert same(_final(out), _final(whole))
        receipts = [event["level"] for event in events(out, "resumed")]
        assert set(receipts) <= {"exact"}, receipts
    print(found)
    assert found.get((75, 75), 0) >= count // 3, found


def _said(out: Path) -> str:
    return "\n".join(path.read_text() for path in out.parent.glob("failed-*"))


@pytest.mark.skipif(not os.environ.get("FULL"), reason="long: make campaign FULL=1")
def test_torchrun_and_its_ranks_told_at_random_moments(tmp_path: Path) -> None:
    """The true launcher, and signals to it too; it answers all with 1."""
    count = max(int(os.environ.get("KEEPSTEP_TEST_SIGNALS", "12")) // 4, 2)
    seed = int(os.environ.get("KEEPSTEP_TEST_SEED", "0")) or random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    preempted: list[dict[str, Any]] = []

    def look(home: Path, life: Life) -> None:
        assert not life.hung, (life, (home / "said").read_text()[-3000:])
        found = _trained(home / "run")
        new = found[sum(one["home"] == home for one in preempted) :]
        preempted.extend({**one, "home": home} for one in new)
        print(life, new)
        if new and life.told:
            assert new[-1]["lost_steps"] == 0, (life, new)
            assert new[-1]["why"].removesuffix(" to rank 1") in (life.told, "SIGTERM"), (life, new)

    drill = Drill(KEEPSTEP, tmp_path, WORLD, random.Random(seed))
    drill.undisturbed()
    course = drill.run(count, look)
    assert course.final == drill.whole, course
    assert not any(course.lost()), course
    levels = {event["level"] for event in events(tmp_path / "course-1/run", "resumed")}
    assert levels <= {"exact"}
