"""The command line: courses of all methods in turns, and a table."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.ranks.methods import METHODS
from benchmarks.ranks.report import write_report
from benchmarks.saves import machine
from benchmarks.saves.campaign import ROOT, TIMEOUT, turned
from benchmarks.saves.command import LLAMA
from benchmarks.saves.results import Results
from benchmarks.saves.spec import CourseSpec, Leg

FILE = "ranks.json"
ALTERNATING = "alternating"
QUICK = ["keepstep", "stock-sharded"]


def main(arguments: list[str] | None = None) -> None:
    """Run what the arguments say."""
    given = sys.argv[1:] if arguments is None else arguments
    if given and given[0] == "course":
        _course(given[1:])
        return
    options = _parse(given)
    if options.quick:
        options.rounds, options.saves, options.every, options.quiet, options.only = 1, 2, 3, 3, QUICK
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / FILE
    if options.anew or not path.exists():
        results = Results(path, machine.describe(options.directory))
    else:
        results = Results.read(path)
    methods = tuple(name for name in METHODS if not options.only or name in options.only)
    leg = Leg(f"{options.ranks} ranks", methods, options.every, 1, options.rounds, options.saves, options.quiet)
    if options.alternating:
        record = measured(leg, ALTERNATING, options)
        text = record.get("refused") or alternating_table(record)
        (options.output / "alternating.md").write_text(text + "\n", encoding="utf-8")
        print(text)
        return
    results.begin(leg)
    for turn in range(leg.rounds):
        for method in turned(leg.methods, turn):
            if not results.has(leg, "course", method, turn):
                record = measured(leg, method, options)
                results.add(leg, "course", method, turn, record)
                print(f"round {turn + 1}, {METHODS[method].label}: {record.get('refused', 'measured')}", flush=True)
    print(write_report(results, options.output))


def alternating_table(record: dict[str, Any]) -> str:
    """What the saves of one training in turns came to."""
    from benchmarks.ranks import alternating

    return alternating.render(record)


def measured(leg: Leg, method: str, options: Any) -> dict[str, Any]:
    """One course in processes of its own: what rank 0 found, or how it ended."""
    place = Path(tempfile.mkdtemp(prefix="ranks-", dir=options.directory))
    try:
        llama = str(options.llama) if options.llama else None
        spec = CourseSpec("llama", method, str(place / "run"), leg.every, 1, leg.saves, leg.quiet, llama)
        answer, log = place / "answer.json", place / "log"
        with socket.socket() as free, log.open("wb") as output:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
            command = [sys.executable, "-m", "benchmarks.ranks", "course", json.dumps(spec.to_json()), str(answer)]
            free.close()
            ranks = [
                subprocess.Popen(command, cwd=ROOT, env=_environment(rank, options.ranks, port), stdout=output,
                                 stderr=subprocess.STDOUT)
                for rank in range(options.ranks)
            ]  # fmt: skip
            _end(ranks)
        if answer.exists():
            return json.loads(answer.read_text(encoding="utf-8"))
        lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return {"refused": f"no answer: {lines[-1] if lines else 'it said nothing'}"}
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _end(ranks: list[subprocess.Popen[bytes]]) -> None:
    """Wait for all; none outlives another by much."""
    deadline = time.monotonic() + TIMEOUT
    while any(rank.poll() is None for rank in ranks):
        if any(rank.poll() for rank in ranks) or time.monotonic() > deadline:
            time.sleep(5)
            for rank in ranks:
                rank.kill()
        time.sleep(0.2)


def _environment(rank: int, count: int, port: int) -> dict[str, str]:
    paths = [str(ROOT), str(ROOT / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "RANK": str(rank), "LOCAL_RANK": str(rank)}
    sizes = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count)}
    return {**os.environ, **own, **place, **sizes, "PYTHONPATH": os.pathsep.join(paths)}


def _course(given: list[str]) -> None:
    from benchmarks.ranks import alternating, course

    spec = CourseSpec(**json.loads(given[0]))
    record = alternating.run(spec) if spec.method == ALTERNATING else course.run(spec)
    if os.environ["RANK"] == "0":
        Path(given[1]).write_text(json.dumps(record), encoding="utf-8")
    sys.stdout.flush()
    os._exit(0)


def _parse(given: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ranks",
        description="What a save of several ranks costs, and how long it takes: keepstep and others, in turns.",
    )
    parser.add_argument("--output", type=Path, required=True, help=f"directory for {FILE} and ranks.md")
    parser.add_argument("--directory", type=Path, default=Path(), help="disk for the checkpoints, 3 GB (default: here)")
    parser.add_argument("--only", action="append", choices=METHODS, metavar="METHOD", help="one of them; again")
    parser.add_argument("--ranks", type=int, default=2, help="processes (default: 2)")
    parser.add_argument("--rounds", type=int, default=3, help="courses of each method (default: 3)")
    parser.add_argument("--saves", type=int, default=4, help="saves of a course that count (default: 4)")
    parser.add_argument("--every", type=int, default=6, help="steps from save to save (default: 6)")
    parser.add_argument("--quiet", type=int, default=8, help="undisturbed steps before them (default: 8)")
    llama = os.environ.get(LLAMA)
    parser.add_argument("--llama", type=Path, default=llama and Path(llama), help=f"stories15M; or ${LLAMA}")
    parser.add_argument("--alternating", action="store_true", help="saves in turns in one training: for a busy machine")
    parser.add_argument("--quick", action="store_true", help="two methods, one round: does the harness work here?")
    parser.add_argument("--anew", action="store_true", help="throw away what OUTPUT holds")
    return parser.parse_args(given)
