"""What it takes until a command has said something, beside an interpreter that imports click and no more.

python benchmarks/startup.py --rounds 15

Fresh processes in turns, their processor time (user and system) and the time by the clock; the medians, the least and
the most of each, and the ratio of the medians to that of `import click`.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CLICK = "import click"
FLOOR = "import click, msgspec, pathlib"


def commands(run: Path) -> dict[str, list[str]]:
    """What is started, by what it is called."""
    keepstep = str(Path(sys.executable).with_name("keepstep"))
    return {
        CLICK: [sys.executable, "-c", CLICK],
        FLOOR: [sys.executable, "-c", FLOOR],
        "keepstep --version": [keepstep, "--version"],
        "keepstep ls, an empty run": [keepstep, "ls", str(run)],
    }


def seconds(command: list[str]) -> tuple[float, float]:
    """Processor time and time by the clock of one process."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=True)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, wall


def empty_run(path: Path) -> Path:
    """A run that has saved nothing."""
    from keepstep.checkpointer import Checkpointer
    from keepstep.retention import Policy

    checkpointer = Checkpointer(path, Policy.from_spec("latest:2"))
    checkpointer.begin("auto")
    checkpointer.close()
    return path


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15, help="rounds that count; two more go before")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        asked = commands(empty_run(Path(place) / "run"))
        found: dict[str, list[tuple[float, float]]] = {name: [] for name in asked}
        for turn in range(-2, options.rounds):
            for name, command in asked.items():
                taken = seconds(command)
                if turn >= 0:
                    found[name].append(taken)
    usual = statistics.median(cpu for cpu, _ in found[CLICK])
    print(f"{'':<32}{'CPU, ms':<22}{'of click':<10}by the clock, ms     (load {os.getloadavg()[0]:.1f} at the end)")
    for name, taken in found.items():
        cpu, wall = ([value * 1e3 for value in values] for values in zip(*taken, strict=True))
        ratio = statistics.median(cpu) / 1e3 / usual
        print(f"{name:<32}{_spread(cpu):<22}{ratio:<10.2f}{_spread(wall)}")


def _spread(values: list[float]) -> str:
    return f"{statistics.median(values):.0f} ({min(values):.0f} to {max(values):.0f})"


if __name__ == "__main__":
    main()
