"""What a run of many checkpoints costs: every command in a fresh process, and a save's bookkeeping in a training.

    python benchmarks/scale.py --counts 100,1000,10000 --rounds 7 --directory DISK

Checkpoint directories are written directly, without fsync: a manifest of the real encoder over eleven files (of which
only the newest checkpoint has the bytes), and the events that a training appends. 10,000 real commits would take
minutes of fsync and lie on the disk in the same form.
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import click
import msgspec

from keepstep import layout
from keepstep.checkpointer import Checkpointer, Facts
from keepstep.model import Checkpoint, FileEntry, Kind
from keepstep.repository import manifest
from keepstep.retention import Metric, Policy
from keepstep.run import Run

KEEP = "best:3,latest:2,every:1000"
METRIC = Metric("eval_loss", "min")
BEST_BELOW = 20
"""Numerators of the losses that have their files: there are some 20 of them, and 3 are kept."""
FILES = [
    "config.json", "generation_config.json", "keepstep_state.json", "model.safetensors", "optimizer.pt",
    "rng_state.pth", "scheduler.pt", "tokenizer.json", "tokenizer_config.json", "trainer_state.json",
    "training_args.bin",
]  # fmt: skip
FINGERPRINT = {
    "arguments": {f"argument_{number}": number * 0.5 for number in range(40)},
    "data": {"fingerprint": "0123456789abcdef", "rows": 100_000, "columns": ["input_ids", "labels"]},
    "model": {"class": "GPT2LMHeadModel", "parameters": 124_439_808, "dtype": "float32"},
    "versions": {"torch": "2.13.0", "transformers": "5.0.0", "accelerate": "1.12.0", "keepstep": "0.1.0"},
    "device": {"type": "cuda", "name": "NVIDIA H200", "world_size": 1},
}
MAIN = "from keepstep.cli.main import main; main()"
SELECT = """
import sys
from keepstep.run import Run
from keepstep.repository import Verification
run = Run.open(sys.argv[1])
run.verify = lambda checkpoint, on_bytes=None: Verification(checkpoint, ())
assert run.resume_point().checkpoint.step
"""


def build(path: Path, count: int) -> None:
    """A finished run with `count` checkpoints, ten steps apart."""
    run = Run.create(path, Policy.from_spec(KEEP, METRIC))
    began = datetime.now(UTC) - timedelta(minutes=count)
    lines: list[bytes] = []
    for generation in range(1, count + 1):
        step, created = generation * 10, began + timedelta(minutes=generation)
        contents = {name: f"{name} of {step}".encode() for name in FILES}
        files = tuple(FileEntry(name, len(data), manifest.digest_of(data)) for name, data in contents.items())
        checkpoint = Checkpoint(
            run_id=run.id,
            generation=generation,
            timeline=1,
            parent=generation - 1 or None,
            step=step,
            epoch=step / 1000,
            kind=Kind.FULL,
            created=created,
            metrics={"eval_loss": 1 + (generation * 7919 % 10007) / 10007, "eval_runtime": 1.5},
            files=files,
            written_by={"keepstep": "0.1.0", "torch": "2.13.0", "world_size": 1},
            fingerprint=FINGERPRINT,
        )
        directory = path / checkpoint.name
        directory.mkdir()
        # A plan looks at the files of what stays: the best, the newest and the milestones have theirs.
        if step % 1000 == 0 or generation > count - 2 or generation * 7919 % 10007 < BEST_BELOW:
            for name, data in contents.items():
                (directory / name).write_bytes(data)
        (directory / manifest.MANIFEST_NAME).write_bytes(manifest.encode(checkpoint))
        committed = {"time": created, "event": "committed", "step": step, "generation": generation, "timeline": 1}
        committed |= {"kind": "full", "metrics": dict(checkpoint.metrics), "size_bytes": 300, "replaces": []}
        late = {"time": created, "event": "metrics", "generation": generation, "metrics": {"accuracy": 0.5}}
        lines += [b"\n" + msgspec.json.encode(event) + b"\n" for event in (committed, late)]
    run.store.append(layout.EVENTS, b"".join(lines), durable=False)


def timed(action: Callable[[], object], rounds: int) -> list[float]:
    """Wall times in milliseconds, after one round that is not counted."""
    times: list[float] = []
    for _ in range(rounds + 1):
        began = time.perf_counter()
        action()
        times.append((time.perf_counter() - began) * 1000)
    return times[1:]


def fresh_processes(path: Path, rounds: int) -> dict[str, list[float]]:
    """Wall and CPU times of commands, each in a process of its own."""
    commands = {
        "python, keepstep --version": [MAIN, "--version"],
        "keepstep ls": [MAIN, "ls", str(path)],
        "keepstep ls --format json": [MAIN, "ls", str(path), "--format", "json"],
        "keepstep prune --dry-run": [MAIN, "prune", str(path), "--dry-run"],
        "keepstep du": [MAIN, "du", str(path)],
        "keepstep resume": [MAIN, "resume", str(path)],
        "resume point, no byte check": [SELECT, str(path)],
    }

    def run(arguments: list[str]) -> None:
        subprocess.run([sys.executable, "-c", *arguments], check=True, capture_output=True)

    found: dict[str, list[float]] = {}
    for name, arguments in commands.items():
        used = [_cpu_of_children()]

        def once(arguments: list[str] = arguments, used: list[float] = used) -> None:
            run(arguments)
            used.append(_cpu_of_children())

        found[name] = timed(once, rounds)
        found[f"{name}: CPU"] = [(after - before) * 1000 for before, after in pairwise(used)][1:]
    return found


def _cpu_of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def in_a_training(path: Path, rounds: int) -> dict[str, list[float]]:
    """Wall times of a save's bookkeeping in the process that holds the lock. Adds some checkpoints."""
    checkpointer = Checkpointer(path, Policy.from_spec("all", METRIC))
    checkpointer.begin("latest")
    try:
        run = checkpointer.run
        step = run.checkpoints[-1].step
        found = {
            "listing": timed(lambda: run.checkpoints, rounds),
            "plan": timed(lambda: run.plan(Policy.from_spec(KEEP, METRIC)), rounds),
            "next generation": timed(run.next_generation, rounds),
        }

        def commit() -> None:
            nonlocal step
            step += 10
            staging = run.repository.stage()
            (staging.path / f"checkpoint-{step}").mkdir()
            (staging.path / f"checkpoint-{step}" / "model.bin").write_bytes(b"tiny")
            draft = Checkpoint(run.id, run.next_generation(), 1, None, step, None, Kind.FULL, datetime.now(UTC), {}, ())
            run.commit(staging, draft)

        def save() -> None:
            nonlocal step
            step += 10
            checkpointer.save(Facts(step), lambda directory: (directory / "model.bin").write_bytes(b"tiny") and None)

        found["commit of one tiny file (with its fsyncs)"] = timed(commit, rounds)
        found["save of one tiny file (with its fsyncs)"] = timed(save, rounds)
        return found
    finally:
        checkpointer.close()


@click.command()
@click.option("--counts", default="100,1000,10000", show_default=True, help="Checkpoints of each run.")
@click.option("--rounds", default=7, show_default=True, help="Rounds that are counted; one more goes before.")
@click.option("--directory", type=click.Path(path_type=Path), help="Where the runs are made; a temporary one else.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write all times, in ms, to this file.")
def main(counts: str, rounds: int, directory: Path | None, json_file: Path | None) -> None:
    """Wall times of commands and of a save's bookkeeping on runs of many checkpoints, in milliseconds."""
    results: dict[str, dict[str, list[float]]] = {}
    with tempfile.TemporaryDirectory(dir=directory) as place:
        for count in map(int, counts.split(",")):
            path = Path(place) / str(count)
            build(path, count)
            time.sleep(3)  # what was written a moment ago is read with more care
            results[str(count)] = fresh_processes(path, rounds) | in_a_training(path, rounds)
            _print(count, results[str(count)])
    if json_file is not None:
        machine: dict[str, Any] = {"rounds": rounds, "milliseconds": results}
        json_file.write_text(json.dumps(machine, indent=1) + "\n")


def _print(count: int, found: dict[str, list[float]]) -> None:
    click.echo(f"\n{count:,} checkpoints{'':31}median ms      min-max")
    for name, times in found.items():
        click.echo(f"  {name:<42}{statistics.median(times):>10.1f}   {min(times):.1f}-{max(times):.1f}")


if __name__ == "__main__":
    main()
