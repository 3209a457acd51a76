"""What signals at random moments cost a training of 16 steps, and whether it comes to the end that it would have had.

    python -m benchmarks.preempted --signals 10 --processes 2 keepstep stock jit

A life is a process, a fork of one that has imported the libraries, or two below torchrun. It is told to end (SIGTERM,
SIGUSR1 or SIGUSR2, to a rank or to who started them) in its start-up or its training; then the same command comes
again, until the training is over. Steps that the next life has to train again are lost; `stuck` is a training with
which three lives in a row could not go on. `lightning` needs an environment with Lightning in it, and has one process.
"""

from __future__ import annotations

import argparse
import random
import statistics
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from benchmarks.preempted.lives import Course, Drill, Life

KINDS = ("keepstep", "stock", "jit", "lightning")


def main() -> None:
    """Run the drills and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("kinds", nargs="*", default=["keepstep", "stock", "jit"], help="; ".join(KINDS))
    parser.add_argument("--signals", type=int, default=10, help="signals to each kind")
    parser.add_argument("--a-course", type=int, default=4, help="signals to one training at most")
    parser.add_argument("--processes", type=int, default=1, choices=(1, 2), help="2: torchrun, gloo on the CPU")
    parser.add_argument("--seed", type=int, default=0, help="moments and signals")
    parser.add_argument("--directory", type=Path, help="where the trainings leave their files; else a temporary one")
    options = parser.parse_args()
    if unknown := set(options.kinds) - set(KINDS):
        parser.error(f"there is no {', '.join(sorted(unknown))}: there are {', '.join(KINDS)}")
    print("| | signals | steps lost: median, most | exit codes | hung | trainings | stuck | other weights |")
    print("|---|---|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as temporary:
        for kind in options.kinds:
            home = (options.directory or Path(temporary)) / f"{kind}-{options.processes}"
            drill = Drill(kind, home, options.processes, random.Random(options.seed))
            drill.undisturbed()
            print(
                _row(kind, options.processes, drill.whole, courses(drill, options.signals, options.a_course)),
                flush=True,
            )


def courses(drill: Drill, signals: int, each: int) -> list[Course]:
    """Trainings until so many signals were sent."""
    found: list[Course] = []
    while (left := signals - sum(bool(life.told) for life in _lives(found))) > 0:
        found.append(drill.run(min(each, left)))
    return found


def _row(kind: str, processes: int, whole: str, found: list[Course]) -> str:
    lives = [life for life in _lives(found) if life.told]
    lost = [steps for course in found for steps in course.lost()] or [0]
    codes = ", ".join(f"{code} x{count}" for code, count in sorted(Counter(life.code for life in lives).items()))
    hung = sum(life.hung for life in _lives(found))
    stuck = sum(not course.final for course in found)
    other = sum(bool(course.final) and course.final != whole for course in found)
    figures = (len(lives), f"{statistics.median(lost):g}, {max(lost)}", codes, hung, len(found), stuck, other)
    return f"| {kind}, {processes} process{'es' * (processes > 1)} | " + " | ".join(map(str, figures)) + " |"


def _lives(found: Iterable[Course]) -> list[Life]:
    return [life for course in found for life in course.lives]


if __name__ == "__main__":
    main()
