"""Writers and servers that are killed at any moment: whatever has a record is whole, and the newest can be had."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from keepstep.checkpointer import Facts
from keepstep.mirror import check, open_mirror
from keepstep.operations.mirroring.bringing import bring, plan_pull
from keepstep.operations.mirroring.plan import plan_mirror
from keepstep.operations.mirroring.syncing import sync
from keepstep.retention import Policy
from keepstep.run import Run
from tests.mirror import servers
from tests.operations.runs import LOSS, training

pytestmark = [pytest.mark.campaign, pytest.mark.servers]
PUSHES = int(os.environ.get("KEEPSTEP_TEST_PUSHES", "2"))
"""Writers that are killed on each server; servers a quarter of it, at least one."""
KEEP = "best:1,latest:2"
"""Thins and drops in the mirror, so that a kill meets those too."""
_LARGE = 17 * 2**20
"""Bytes of a file that goes in two parts."""


def _commit(path: Path, step: int, generator: random.Random) -> None:
    """One more checkpoint: a small file, one that goes in two parts each fourth time, and a loss, so that the best
    changes.
    """

    def write(directory: Path) -> None:
        (directory / "model.safetensors").write_bytes(generator.randbytes(_LARGE if step % 4 == 1 else 300_000))
        (directory / "optimizer.pt").write_bytes(generator.randbytes(1000))

    with training(path, KEEP) as checkpointer:
        checkpointer.save(Facts(step, metrics={"eval_loss": generator.random()}), write)


class _Campaign:
    """A run, its mirror, and what there must be after each kill."""

    def __init__(self, tmp_path: Path, address: str, generator: random.Random) -> None:
        self.run, self.address, self._generator = tmp_path / "run", address, generator
        self._there, self._step, self._highest = tmp_path / "there", 0, 0
        self.grew = 0
        self._said = (tmp_path / "said").open("w+")
        command = [sys.executable, "-m", "tests.mirror.pusher", str(self.run), address, KEEP, "many"]
        self._pusher = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._said, text=True
        )

    def push(self) -> int:
        """The number of a process that sends one more checkpoint; it has begun."""
        self._step += 1
        _commit(self.run, self._step, self._generator)
        assert self._pusher.stdin is not None
        self._pusher.stdin.write("go\n")
        self._pusher.stdin.flush()
        return int(self._line("ready"))

    def ended(self) -> int:
        """Wait for the end of what was begun; returns its exit code, below zero for a signal."""
        return int(self._line("ended"))

    def _line(self, what: str) -> str:
        assert self._pusher.stdout is not None
        words = self._pusher.stdout.readline().split()
        assert words[:1] == [what], (words, self.said())
        return words[1]

    def said(self) -> str:
        """What processes have said of errors."""
        self._said.seek(0)
        return self._said.read()

    def close(self) -> None:
        self._pusher.kill()
        self._pusher.communicate()
        self._said.close()

    def look(self, *, everything: bool = False) -> None:
        """The newest is no older than before and comes whole; each fifth time all that has a record is read back."""
        mirror = open_mirror(self.address)
        records = mirror.records()
        newest = records[0].name.generation if records else 0
        assert newest >= self._highest, "a commit is gone"
        self.grew += newest > self._highest
        self._highest = newest
        for record in records if everything or self._step % 5 == 0 else records[:1]:
            assert check(mirror, record) == (), record.key
        if records:
            shutil.rmtree(self._there, ignore_errors=True)
            bring(mirror, plan_pull(mirror, self._there, "latest"))
            came = Run.open(self._there)
            assert came.checkpoints[-1].generation == next(r.name.generation for r in records if r.checkpoint.resumable)
            assert not came.repository.verify(came.checkpoints[-1]).problems

    def end(self) -> None:
        """In the end all is there, and nothing twice."""
        run, mirror, policy = Run.open(self.run), open_mirror(self.address), Policy.from_spec(KEEP, LOSS)
        sync(run, mirror, policy, plan_mirror(run, mirror, mirror.records(), policy))
        self.look(everything=True)
        mirror = open_mirror(self.address)
        assert {c.generation for c in run.checkpoints} <= {r.name.generation for r in mirror.records()}
        assert len(list(mirror.names())) == len(mirror.records())


@pytest.fixture
def campaign(tmp_path: Path) -> Iterator[Callable[[str], _Campaign]]:
    with ExitStack() as stack:

        def begin(address: str) -> _Campaign:
            campaign = _Campaign(tmp_path, address, random.Random(os.urandom(8)))
            stack.callback(campaign.close)
            return campaign

        yield begin


def _duration(campaign: _Campaign) -> float:
    """How long a push takes when nobody is killed."""
    campaign.push()
    began = time.monotonic()
    assert campaign.ended() == 0
    took = time.monotonic() - began
    campaign.look()
    return took


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("name", ["s3", "seaweed"])
def test_writers_are_killed(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    campaign: Callable[[str], _Campaign],
    name: str,
) -> None:
    servers.use(request.getfixturevalue(name), monkeypatch)
    begun = campaign(f"s3://{servers.BUCKET}/{tmp_path.name}")
    took, killed = _duration(begun), 0
    for _ in range(PUSHES):
        process = begun.push()
        time.sleep(random.random() * 1.5 * took)
        os.kill(process, signal.SIGKILL)
        code = begun.ended()
        assert code in (0, -signal.SIGKILL)
        killed, took = killed + (code != 0), took * (1.05 if code else 0.9)  # on a busy machine all is slower
        begun.look()
    begun.end()
    assert begun.said() == ""
    print(f"{name}: {PUSHES} writers, {killed} killed on their way; {begun.grew} times the newest was newer")


@pytest.mark.timeout(4 * 3600)
@pytest.mark.parametrize("kind", [servers.Seaweed, servers.Rclone])
def test_servers_are_killed(
    kind: type[servers.Server],
    monkeypatch: pytest.MonkeyPatch,
    campaign: Callable[[str], _Campaign],
) -> None:
    times, failed = max(1, PUSHES // 4), 0
    with servers.running(kind) as server:
        servers.use(server, monkeypatch)
        begun = campaign(f"s3://{servers.BUCKET}/run")
        took = _duration(begun)
        for _ in range(times):
            begun.push()
            time.sleep(random.random() * took)
            server.kill()
            server.start()
            # A writer is as patient as a server takes to come back.
            failed += begun.ended() != 0
            begun.look()
        begun.end()
    said = begun.said()
    assert said.count("Traceback") == said.count("keepstep.errors.MirrorUnavailable: ") + said.count("direct cause")
    print(f"{kind.__name__}: killed {times} times; {failed} pushes failed, in words")
