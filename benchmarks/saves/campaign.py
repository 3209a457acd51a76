"""Runs legs: one process after the other, methods interleaved, their order alternating from round to round."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.saves import estimator
from benchmarks.saves.methods import METHODS
from benchmarks.saves.results import Results
from benchmarks.saves.spec import CourseSpec, Leg
from benchmarks.saves.ways import WAY_FACTS

ROOT = Path(__file__).parents[2]
TIMEOUT = 1200.0
NOT_INSTALLED = "not installed"
DEFAULT_BYTES = 1_493_000_000
"""Bytes of the limits where no course has told the size of the state yet: 124M parameters and their moments."""
Say = Callable[[str], None]


class Campaign:
    """Measures legs into results; what they hold already is not measured again. `disk` takes the checkpoints."""

    def __init__(self, results: Results, disk: Path, llama: str | None, say: Say = print) -> None:
        self._results = results
        self._disk = disk
        self._llama = llama
        self._say = say

    def run(self, leg: Leg) -> None:
        """All rounds of one leg."""
        self._results.begin(leg)
        self._say(f"\n{leg.name}: {leg.rounds} round{'s' if leg.rounds > 1 else ''} of {', '.join(leg.methods)}")
        for turn in range(leg.rounds):
            for method in turned(leg.methods, turn):
                self._course(leg, method, turn)
            if leg.limits:
                self._limits(leg, turn)
        if leg.resumes:
            self._resumes(leg)

    def _course(self, leg: Leg, method: str, turn: int) -> None:
        if self._results.has(leg, "course", method, turn):
            return
        record = self._here(method, "course", leg)
        self._results.add(leg, "course", method, turn, record)
        self._say(f"  round {turn + 1}, {METHODS[method].label}: {_summary(record)}")

    def _limits(self, leg: Leg, turn: int) -> None:
        if self._results.has(leg, "limits", "", turn):
            return
        sizes = [r["state_bytes"] for r in self._results.of(leg, "course") if "state_bytes" in r]
        spec = self._spec(leg, "none", "")
        record = self._process("limits", spec, ["--bytes", str(sizes[0] if sizes else DEFAULT_BYTES)])
        self._results.add(leg, "limits", "", turn, record)
        self._say(f"  round {turn + 1}, limits of the machine: measured")

    def _resumes(self, leg: Leg) -> None:
        """Every way from one checkpoint of each method, which stays on disk until the last round."""
        ways = tuple(name for name, way in WAY_FACTS.items() if way.method in leg.methods)
        wanted = [(name, turn) for turn in range(leg.rounds) for name in turned(ways, turn)]
        wanted = [(name, turn) for name, turn in wanted if not self._results.has(leg, "resume", name, turn)]
        if not wanted:
            return
        with tempfile.TemporaryDirectory(prefix="saves-", dir=self._disk) as place:
            prepared: dict[str, dict[str, Any]] = {}
            for method in dict.fromkeys(WAY_FACTS[name].method for name, _ in wanted):
                home = Path(place) / method
                home.mkdir()
                prepared[method] = self._here(method, "prepare", leg, home)
            for name, turn in wanted:
                method = WAY_FACTS[name].method
                record = prepared[method]
                if "refused" not in record:
                    record = self._resume(self._spec(leg, method, str(Path(place) / method)), name)
                self._results.add(leg, "resume", name, turn, record)
                told = record.get("refused") or f"cold {record['cold']:.2f} s, warm {record['warm']:.2f} s"
                self._say(f"  round {turn + 1}, resume by {WAY_FACTS[name].label}: {told}")

    def _resume(self, spec: CourseSpec, way: str) -> dict[str, Any]:
        """Cold in one process, warm in another."""
        cold, warm = (self._process("resume", spec, ["--way", way, "--heat", heat]) for heat in ("cold", "warm"))
        for record in (cold, warm):
            if "refused" in record:
                return record
        shares = {"cached_after_dropping": cold["cached"], "cached_when_warm": warm["cached"]}
        return {"cold": cold["cold"], "warm": warm["warm"], "fresh": warm["fresh"], "apart": True, **shares,
                "load": [cold["load"], warm["load"]]}  # fmt: skip

    def _here(self, method: str, kind: str, leg: Leg, home: Path | None = None) -> dict[str, Any]:
        """One process of a method, in a directory of its own unless one is given."""
        if not METHODS[method].installed():
            return {"refused": NOT_INSTALLED}
        place = home or Path(tempfile.mkdtemp(prefix="saves-", dir=self._disk))
        try:
            return self._process(kind, self._spec(leg, method, str(place)), [])
        finally:
            if home is None:
                shutil.rmtree(place, ignore_errors=True)

    def _spec(self, leg: Leg, method: str, directory: str) -> CourseSpec:
        where = directory or str(self._disk)
        return CourseSpec(leg.workload, method, where, leg.every, leg.threads, leg.saves, leg.quiet, self._llama)

    def _process(self, kind: str, spec: CourseSpec, more: list[str]) -> dict[str, Any]:
        """Run a process; its record, or what it ended with."""
        with tempfile.TemporaryDirectory(prefix="saves-") as place:
            answer, log = Path(place) / "answer.json", Path(place) / "log"
            given = ["--spec", json.dumps(spec.to_json()), "--answer", str(answer), *more]
            command = [sys.executable, "-m", "benchmarks.saves", kind, *given]
            with log.open("wb") as output:
                code = _call(command, _environment(spec.threads), output)
            if code == 0 and answer.exists():
                return json.loads(answer.read_text(encoding="utf-8"))
            lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
            return {"refused": f"the process ended with {code}: {lines[-1] if lines else 'it said nothing'}"}


def turned(methods: tuple[str, ...], turn: int) -> tuple[str, ...]:
    """The methods in the order of a round: rotated by a third each round, and every other round backwards."""
    start = turn * max(1, len(methods) // 3) % max(1, len(methods))
    order = methods[start:] + methods[:start]
    return order[::-1] if turn % 2 else order


def _call(command: list[str], environment: dict[str, str], output: Any) -> int | str:
    """Run a process in a group of its own, so that what it started ends with it."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
    )
    try:
        return process.wait(TIMEOUT)
    except subprocess.TimeoutExpired:
        return f"no answer within {TIMEOUT:.0f} s"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _environment(threads: int) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    # Orbax's JAX is for the CPU here, whatever the machine has; it says so at length otherwise.
    return {**os.environ, **own, "JAX_PLATFORMS": "cpu", "PYTHONPATH": os.pathsep.join(paths)}


def _summary(record: dict[str, Any]) -> str:
    if "refused" in record:
        return record["refused"].splitlines()[0]
    costs = estimator.costs(record)
    if not costs:
        return "nothing was saved"
    spreads = [estimator.Spread.of([getattr(c, name) for c in costs]) for name in ("blocked", "inflation", "durable")]
    blocked, inflation, durable = (spread.median for spread in spreads)
    quiet = estimator.quiet_step(record)
    return (
        f"blocked {blocked:.3f} s, inflation {inflation:.2f} s, durable after {durable:.2f} s; steps of {quiet:.2f} s"
    )
