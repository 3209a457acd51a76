"""The command line of the benchmark."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from benchmarks.saves.methods import METHODS
from benchmarks.saves.spec import CourseSpec, Leg

EXAMPLES = """\
examples:
  python -m benchmarks.saves --quick --output /tmp/quick          does it work here? under two minutes
  python -m benchmarks.saves --short --output DIR                 ten minutes: the headline, with its noise
  python -m benchmarks.saves --output DIR --directory /mnt/disk   two hours: 124M, LoRA, bf16, 2 threads
  python -m benchmarks.saves --workload gpt2 --threads 2 --rounds 3 --output DIR
  python -m benchmarks.saves --workload gpt2 --only keepstep --only stock --only none --every 50 --output DIR
  python -m benchmarks.saves report DIR --plot docs/images/saves.png
  python -m benchmarks.saves scaling --output DIR --directory /mnt/disk

Ctrl-C leaves what was measured in DIR/results.json; the same command goes on from there, `report` renders it.
Nothing else should run on the machine meanwhile; the report says what the load was.
"""
LLAMA = "KEEPSTEP_BENCH_LLAMA"
"""Environment variable: a directory with the 15M Llama (stories15M) in Hugging Face layout."""
INTERRUPTED = 130
ALL = tuple(METHODS)
FEW = ("none", "keepstep", "stock", "dcp-staged", "dcp-async-cached", "moonclip")
PEERS = ("none", "keepstep", "stock", "dcp-staged", "dcp-async-cached")
"""What needs nothing but torch and transformers."""
QUICK = ("none", "keepstep", "stock", "moonclip")
WORKLOADS = "gpt2, gpt2:LAYERS, gpt2-bf16, lora-llama, lora-gpt2, many:TENSORS, stack:MILLIONS, small"


def whole_set() -> list[Leg]:
    """What `make bench` measures."""
    return [
        Leg("gpt2", ALL, saves=4),
        Leg("lora-llama", FEW, rounds=2, saves=4, quiet=20, limits=False, resumes=False),
        Leg("lora-gpt2", FEW, rounds=2, saves=4, quiet=10, limits=False, resumes=False),
        Leg("gpt2-bf16", FEW, rounds=2, limits=False, resumes=False),
        Leg("gpt2", FEW, threads=2, rounds=2, limits=False, resumes=False),
        Leg("gpt2", FEW, every=50, rounds=2, saves=2, limits=False, resumes=False),
    ]


def short_set() -> list[Leg]:
    """What `make bench QUICK=1` measures: the headline alone, by what a visitor has installed anyway."""
    return [Leg("gpt2", PEERS, rounds=2, saves=2, resumes=False)]


def main(arguments: list[str] | None = None) -> None:
    """Run what the arguments say."""
    given = sys.argv[1:] if arguments is None else arguments
    commands = {"report": _report, "scaling": _scaling, "run": _run}
    name, rest = (given[0], given[1:]) if given and not given[0].startswith("-") else ("run", given)
    if name in ("course", "prepare", "resume", "limits"):
        _course(name, rest)
    elif name in commands:
        commands[name](rest)
    else:
        sys.exit(f"{name!r} is no command: run (the default), report, scaling; see --help")


def _run(given: list[str]) -> None:
    from benchmarks.saves import machine
    from benchmarks.saves.campaign import Campaign
    from benchmarks.saves.report import write_report
    from benchmarks.saves.results import FILE, Results

    options = _run_options(given)
    legs = _legs(options)
    disk = options.directory.resolve()
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / FILE
    results = Results(path, machine.describe(disk))
    if path.exists() and not options.anew:
        results = Results.read(path)
    llama = options.llama or os.environ.get(LLAMA)
    campaign = Campaign(results, disk, str(llama) if llama else None)
    disk.mkdir(parents=True, exist_ok=True)
    _warn(disk)
    stopped = False
    try:
        for leg in legs:
            campaign.run(leg)
    except KeyboardInterrupt:
        stopped = True
        print(f"\nstopped; what was measured is in {path}. The same command goes on from there.")
    except ValueError as error:
        sys.exit(str(error))
    print(write_report(results, options.output, options.plot))
    if stopped:
        sys.exit(INTERRUPTED)


def _run_options(given: list[str]) -> Any:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.saves",
        description="What a save costs a training, and what a resume takes: keepstep and its peers in one run.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--output", type=Path, required=True, help="directory for results.json, report.md, steps.png")
    parser.add_argument(
        "--directory", type=Path, default=Path(), help="disk for the checkpoints, 20 GB (default: here)"
    )
    parser.add_argument("--workload", help=f"one instead of the whole set: {WORKLOADS}")
    parser.add_argument(
        "--only", action="append", choices=ALL, metavar="METHOD", help=f"one of {', '.join(ALL)}; again"
    )
    parser.add_argument("--rounds", type=int, help="courses of each method")
    parser.add_argument("--saves", type=int, help="saves of each course that count")
    parser.add_argument("--every", type=int, help="steps from save to save")
    parser.add_argument("--threads", type=int, help="threads of the training")
    parser.add_argument("--llama", type=Path, help=f"directory of stories15M; or ${LLAMA}")
    parser.add_argument("--plot", type=Path, help="where the plot goes (default: OUTPUT/steps.png)")
    parser.add_argument("--no-resumes", action="store_true", help="leave out loading")
    parser.add_argument("--no-limits", action="store_true", help="leave out the limits of the machine")
    parser.add_argument(
        "--short", action="store_true", help="ten minutes: the 124M headline, two rounds, without peers to install"
    )
    parser.add_argument("--quick", action="store_true", help="a small model, one round: does the harness work here?")
    parser.add_argument("--anew", action="store_true", help="throw away what OUTPUT holds")
    return parser.parse_args(given)


def _legs(options: Any) -> list[Leg]:
    legs = whole_set()
    if options.short:
        legs = short_set()
    if options.quick:
        legs = [Leg("small", QUICK, rounds=1, saves=2, quiet=6)]
    if options.workload:
        legs = [Leg(options.workload, ALL)]
    changes = {name: getattr(options, name) for name in ("rounds", "saves", "every", "threads")}
    changes = {name: value for name, value in changes.items() if value is not None}
    if options.only:
        changes["methods"] = [name for name in ALL if name in options.only]
    if options.no_resumes:
        changes["resumes"] = False
    if options.no_limits:
        changes["limits"] = False
    return [Leg.from_json({**leg.to_json(), **changes}) for leg in legs]


def _warn(disk: Path) -> None:
    free, load = shutil.disk_usage(disk).free, os.getloadavg()[0]
    if free < 20e9:
        print(f"{disk} has {free / 1e9:.0f} GB free; the 124M workload takes up to 20 GB")
    if load > 1:
        print(f"the load average is {load:.1f}: something else runs here, and will be in the figures")


def _report(given: list[str]) -> None:
    from benchmarks.saves.report import write_report
    from benchmarks.saves.results import FILE, Results

    parser = argparse.ArgumentParser(prog="python -m benchmarks.saves report", description="Render what was measured.")
    parser.add_argument("output", type=Path, help="directory with results.json")
    parser.add_argument("--plot", type=Path, help="where the plot goes (default: OUTPUT/steps.png)")
    options = parser.parse_args(given)
    print(write_report(Results.read(options.output / FILE), options.output, options.plot))


def _scaling(given: list[str]) -> None:
    from benchmarks.saves import scaling

    scaling.main(given)


def _course(kind: str, given: list[str]) -> None:
    """One process of a campaign."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--spec", type=lambda text: CourseSpec(**json.loads(text)), required=True)
    parser.add_argument("--answer", type=Path, required=True)
    parser.add_argument("--bytes", type=int)
    parser.add_argument("--way")
    parser.add_argument("--heat", choices=("cold", "warm"))
    options = parser.parse_args(given)
    options.answer.write_text(json.dumps(_measure(kind, options)), encoding="utf-8")
    # A refused method may have left threads behind that would keep the process; its group is ended by the campaign.
    sys.stdout.flush()
    os._exit(0)


def _measure(kind: str, options: Any) -> dict[str, Any]:
    if kind == "limits":
        from benchmarks.saves import limits

        return {"bytes": options.bytes, "seconds": limits.measure(options.bytes, Path(options.spec.directory))}
    if kind == "course":
        from benchmarks.saves import course

        return course.run(options.spec)
    from benchmarks.saves import resuming

    if kind == "prepare":
        return resuming.prepare(options.spec)
    return resuming.resume(options.spec, options.way, options.heat)
