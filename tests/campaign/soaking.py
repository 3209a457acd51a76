"""A training killed again and again on a disk that is nearly full, and a person who prunes, exports and looks."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import struct
import sys
import time
import traceback
import urllib.request
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from http.cookiejar import CookieJar
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from keepstep import Checkpointer, Facts, Metric, Policy
from keepstep.cli.main import main
from keepstep.errors import DiskFull, RunLocked
from keepstep.model import parse_name
from keepstep.operations.export.marker import MARKER, read_marker
from keepstep.run import Run
from tests.racing import forked

OPTIMIZER = 1_500_000
"""Bytes of a checkpoint beside the model's."""
KEEP = "latest:3,best:2"
FOREIGN = {
    "notes.txt": b"of a person", "checkpoint-mine/weights.bin": b"by hand", "run/notes.txt": b"in the run",
    "run/samples/1.txt": b"of a callback", "run/checkpoint-best/model.bin": b"a copy",
}  # fmt: skip
"""What lies there that keepstep did not write."""
REFUSALS = {"prune": {1, 5}, "export": {3, 8}}
"""Exit codes of a plan that changed, a run in use; a checkpoint that went away, a disk without room."""
PATIENCE = 60
"""Seconds that anything may take before it counts as hung."""


@dataclass
class Seen:
    """What came of a soak."""

    commits: int = 0
    refused: int = 0
    kills: Counter[str] = field(default_factory=Counter[str])
    done: Counter[str] = field(default_factory=Counter[str])
    told: Counter[str] = field(default_factory=Counter[str])
    answers: int = 0
    least_free: int = 2**60
    violations: list[str] = field(default_factory=list[str])

    def __str__(self) -> str:
        return (
            f"{self.commits} commits, {self.refused} refused for room; killed: {dict(self.kills)}; "
            f"done: {dict(self.done)}; told no: {dict(self.told)}; {self.answers} answers of the page; "
            f"least free {self.least_free // 1000} kB; {len(self.violations)} violations"
        )


@dataclass(frozen=True)
class Model:
    """The files of a real model; the weights differ by the step."""

    config: bytes
    weights: bytes

    def of(self, step: int) -> bytes:
        """The weights of a step: the last one is its number."""
        return self.weights[:-4] + struct.pack("<f", step)

    def write(self, directory: Path, step: int) -> None:
        """A checkpoint as a framework writes it, without any sync."""
        (directory / "config.json").write_bytes(self.config)
        (directory / "model.safetensors").write_bytes(self.of(step))
        (directory / "optimizer.pt").write_bytes(optimizer(step))

    def step_of(self, directory: Path) -> int:
        """The step that weights are of; -1 where they are of none."""
        found = (directory / "model.safetensors").read_bytes()
        step = int(struct.unpack("<f", found[-4:])[0])
        return step if found == self.of(step) else -1


def optimizer(step: int) -> bytes:
    """The optimizer's bytes of a step."""
    return random.Random(step).randbytes(OPTIMIZER)


@dataclass
class Soak:
    """All that goes on in one directory, until `seconds` are over."""

    root: Path
    diary: Path
    model: Model
    seconds: float
    chance: random.Random
    budget: str | None = None
    seen: Seen = field(default_factory=Seen)
    missing: int = 0
    checked: bool = False

    def __post_init__(self) -> None:
        self.run = self.root / "run"
        self.targets = self.root / "exports/model", self.diary.with_name("exports") / "model"
        self.ends = time.monotonic() + self.seconds
        self.page = Page(self.root, self.diary.with_name("page"))
        self.diary.touch()
        for name, content in FOREIGN.items():
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            (self.root / name).write_bytes(content)

    def last(self) -> int:
        """The last step that a training was told is committed."""
        whole, _, _ = self.diary.read_text().rpartition("\n")
        return int(whole.rpartition("\n")[2] or 0)

    def go(self) -> Seen:
        """Everything side by side; each of them is killed at some time, the training every few seconds."""
        actors = {
            "training": Actor(self.train, (0.3, 4), pause=0.3),
            "prune": Actor(self.prune, (0.02, 1), pause=0.3),
            "export": Actor(self.export, (0.05, 1.5), pause=0.1),
            "page": Actor(self.page.serve, (3, 20)),
        }
        while time.monotonic() < self.ends:
            for name, actor in actors.items():
                if (code := actor.turn(self.chance)) is not None:
                    self.ended(name, code)
            self.look()
            if actors["page"].pid is not None:
                self.page.ask(self.seen)
            time.sleep(0.02)
        for name, actor in actors.items():
            if (code := actor.end()) is not None:
                self.ended(name, code)
        self.told()
        return self.seen

    def ended(self, name: str, code: int) -> None:
        """One of them has come to its end, by itself or killed."""
        if code == -signal.SIGKILL:
            self.seen.kills[name] += 1
        elif code == 0 and name not in ("training", "page"):
            self.seen.done[name] += 1
        elif code in REFUSALS.get(name, ()):
            self.seen.told[f"{name} {code}"] += 1
        else:
            self.wrong(f"{name} ended with {code}")
        if name == "training":
            self.whole()
        elif name == "export":
            self.exported(code)
        elif name == "page":
            self.page.gone()

    def wrong(self, what: str) -> None:
        """A promise that was broken."""
        self.seen.violations.append(what)

    # -- who is there --------------------------------------------------------------------------------------

    def train(self) -> None:
        """Until it is killed: a step, a save, a line in the diary once that is committed."""
        policy = Policy.from_spec(KEEP, Metric("eval_loss", "min"))
        checkpointer = Checkpointer(self.run, policy, budget=self.budget, on_disk_full="continue")
        while True:
            with suppress(RunLocked):
                point = checkpointer.begin("auto")
                break
            time.sleep(0.01)
        step = 0 if point is None else point.checkpoint.step
        chance = random.Random()
        with self.diary.open("a", buffering=1) as diary:
            while True:
                step += 1
                self._save(checkpointer, step, chance.random())
                diary.write(f"{step}\n")
                time.sleep(0.1)

    def _save(self, checkpointer: Checkpointer, step: int, loss: float) -> None:
        while True:
            try:
                checkpointer.save(
                    Facts(step, metrics={"eval_loss": loss}), lambda directory: self.model.write(directory, step)
                )
                return
            except DiskFull as error:
                checkpointer.refuse(step, error)
                time.sleep(0.05)

    def prune(self) -> None:
        """What a person types who wants some room, not always with the run's own policy."""
        keep = random.Random().choice(([], ["--keep", "latest:1,best:1"], ["--keep", "latest:2"]))
        self._type("prune", str(self.run), "--yes", *keep)

    def export(self) -> None:
        """What a person types who wants the model: mostly on another disk, as there is no room for it on this one."""
        chance = random.Random()
        target = self.targets[chance.random() < 0.8]
        self._type("export", str(self.run), chance.choice(("best", "latest")), str(target))

    def _type(self, *words: str) -> None:
        done = CliRunner().invoke(main, list(words))
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            traceback.print_exception(done.exception)
        if done.exit_code not in {0, *REFUSALS[words[0]]}:
            print(done.output, file=sys.stderr)
        os._exit(done.exit_code)

    # -- what must hold ------------------------------------------------------------------------------------

    def look(self) -> None:
        """At any time, once there was one, there is one; a listing that a rename passes by is looked at again."""
        state = os.statvfs(self.root)
        self.seen.least_free = min(self.seen.least_free, state.f_bavail * state.f_frsize)
        if not self.checked:
            self.checked = self.last() > 0
            return
        self.missing = 0 if any(parse_name(name) for name in os.listdir(self.run)) else self.missing + 1
        if self.missing == 3:
            self.wrong("no checkpoint is there")

    def whole(self) -> None:
        """After a kill of the training: the newest is the one that was committed last, and every byte is its own."""
        last = self.last()
        for name, content in FOREIGN.items():
            if not (self.root / name).exists() or (self.root / name).read_bytes() != content:
                self.wrong(f"{name} was touched")
        if last == 0:
            return
        newest = max(Run.open(self.run).checkpoints, key=lambda one: one.step, default=None)
        if newest is None or newest.step < last:
            self.wrong(f"step {last} was committed, and the newest is {newest}")
            return
        verified = CliRunner().invoke(main, ["verify", str(self.run), "latest"])
        if verified.exit_code != 0:
            self.wrong(f"verify says {verified.exit_code}: {verified.output}")
        path = Path(str(newest.path))
        if self.model.step_of(path) != newest.step or (path / "optimizer.pt").read_bytes() != optimizer(newest.step):
            self.wrong(f"{newest.name} holds what was not saved")

    def exported(self, code: int) -> None:
        """A directory is there where it succeeded, and wherever one is it is whole."""
        there = [target for target in self.targets if target.exists()]
        if code == 0 and not there:
            self.wrong("an export succeeded, and is not there")
        for target in there:
            marker = read_marker(target)
            files = {MARKER, *(entry.path for entry in marker.files)} if marker is not None else set[str]()
            found = {file.name for file in target.iterdir()}
            if marker is None or marker.strangers(target) or files != found:
                self.wrong(f"an export that ended with {code} is not whole: {sorted(found)}")
            elif self.model.step_of(target) < 1:
                self.wrong("an export holds the weights of no step")
            shutil.rmtree(target)

    def told(self) -> None:
        """What the run's own records say of it."""
        run = Run.open(self.run)
        for event in run.events.read():
            self.seen.commits += event["event"] == "committed"
            self.seen.refused += event["event"] == "refused"
        self.seen.violations += [f"{one.name} is damaged" for one in run.checkpoints if not run.verify(one).ok]


@dataclass
class Actor:
    """One that acts in a process of its own, is killed after a time between two, and started again after a pause."""

    act: Callable[[], None]
    lives: tuple[float, float]
    pause: float = 0.0
    pid: int | None = None
    dies: float = 0.0
    starts: float = 0.0

    def turn(self, chance: random.Random) -> int | None:
        """Start it, kill it, or hear how it ended: the exit code then, minus the signal."""
        now = time.monotonic()
        if self.pid is None:
            if now >= self.starts:
                self.pid, self.dies = forked(self.act), now + chance.uniform(*self.lives)
            return None
        if now > self.dies:
            os.kill(self.pid, signal.SIGKILL)
            return self._reap(0)
        return self._reap(os.WNOHANG)

    def end(self) -> int | None:
        """Kill what goes on."""
        if self.pid is None:
            return None
        os.kill(self.pid, signal.SIGKILL)
        return self._reap(0)

    def _reap(self, options: int) -> int | None:
        assert self.pid is not None
        done, status = os.waitpid(self.pid, options)
        if not done:
            return None
        self.pid, self.starts = None, time.monotonic() + self.pause
        return os.waitstatus_to_exitcode(status)


class Page:
    """`keepstep ui` over the directory, and a browser that asks it."""

    def __init__(self, root: Path, says: Path) -> None:
        self.root, self.says = root, says
        self.gone()

    def gone(self) -> None:
        """The server was killed: the next has another address."""
        self.says.unlink(missing_ok=True)
        self.browser: urllib.request.OpenerDirector | None = None
        self.base, self.next, self.since = "", 0.0, time.monotonic()

    def serve(self) -> None:
        """The server, in a process of its own."""
        sys.stdout = self.says.open("w")
        main(["ui", str(self.root), "--no-open", "--format", "json"])

    def ask(self, seen: Seen) -> None:
        """What it shows of the runs, twice a second once it has said where it is."""
        if time.monotonic() < self.next:
            return
        self.next = time.monotonic() + 0.5
        if self.browser is None and not self._let_in(seen):
            return
        answer = self._get("/api/runs")
        if {one["name"] for one in answer["runs"]} - {"run"}:
            seen.violations.append(f"the page shows {answer}")
        seen.answers += 1

    def _let_in(self, seen: Seen) -> bool:
        with suppress(FileNotFoundError, ValueError):
            link = json.loads(self.says.read_text().partition("\n")[0])["url"]
            self.base, _, token = link.partition("/?token=")
            without_proxies = urllib.request.ProxyHandler({})
            cookies = urllib.request.HTTPCookieProcessor(CookieJar())
            self.browser = urllib.request.build_opener(without_proxies, cookies)
            self.browser.open(f"{self.base}/?token={token}", timeout=PATIENCE).close()
            return True
        if time.monotonic() > self.since + PATIENCE:
            seen.violations.append("the page did not start")
            self.since = time.monotonic()
        return False

    def _get(self, address: str) -> Any:
        assert self.browser is not None
        with self.browser.open(self.base + address, timeout=PATIENCE) as answer:
            return json.loads(answer.read())
