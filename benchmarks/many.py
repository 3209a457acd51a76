"""What commands on many runs cost: a tree of stock runs and one of managed runs, each command in a fresh process.

    python benchmarks/many.py --directory DISK --runs 1000 --checkpoints 100 --rounds 5

The tree takes four kilobytes a file, four gigabytes for a million files of a few hundred bytes, and some minutes; it is
left there, and used again. Cold is without keepstep's own cache; the caches of the system are warm in both.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import click

from keepstep.model import Checkpoint, FileEntry, Kind
from keepstep.operations.many import Survey
from keepstep.operations.remembering import Memory
from keepstep.operations.seeing.finding import search
from keepstep.repository import manifest
from keepstep.retention import Metric, Policy
from keepstep.run import Run

NAMES = (
    "config.json", "generation_config.json", "model.safetensors", "optimizer.pt", "rng_state.pth", "scheduler.pt",
    "tokenizer.json", "tokenizer_config.json", "training_args.bin",
)  # fmt: skip
EVERY = 100
"""Steps between two checkpoints."""
LONG_AGO = 1_700_000_000


def build_stock(root: Path, runs: int, checkpoints: int) -> None:
    """Runs as the stock Trainer leaves them: ten small files a checkpoint, an evaluation at each."""
    states = [json.dumps(_state(number), indent=2) for number in range(1, checkpoints + 1)]
    # As pickled arguments without a metric of their own.
    arguments = pickle.dumps({"output_dir": "run", "metric_for_best_model": None}, protocol=2)
    for run in range(runs):
        home = root / f"project-{run // 50}" / f"run-{run}"
        home.mkdir(parents=True)
        for number, state in enumerate(states, start=1):
            place = home / f"checkpoint-{number * EVERY}"
            place.mkdir()
            for name in NAMES:
                (place / name).write_bytes(arguments if name == "training_args.bin" else b"x" * 100)
            (place / "trainer_state.json").write_text(state)
            os.utime(place, (LONG_AGO + number, LONG_AGO + number))


def _state(number: int) -> dict[str, object]:
    log: list[dict[str, float]] = []
    for at in range(1, number + 1):
        log.append(
            {"epoch": at / 10, "grad_norm": 1.25, "learning_rate": 1e-4, "loss": 3 - at / 100, "step": at * EVERY}
        )
        value = 2.5 - at / 100 + at * 7919 % 13 / 100
        log.append({"epoch": at / 10, "eval_loss": value, "eval_runtime": 1.5, "step": at * EVERY})
    return {"epoch": number / 10, "global_step": number * EVERY, "max_steps": -1, "log_history": log}


def build_managed(root: Path, runs: int, checkpoints: int) -> None:
    """Managed runs, their checkpoints written directly: a manifest of the real encoder, and events."""
    for run in range(runs):
        home = root / f"managed-{run}"
        made = Run.create(home, Policy.from_spec("best:3,latest:2", Metric("eval_loss", "min")))
        for number in range(1, checkpoints + 1):
            value = 2.5 - number / 100
            checkpoint = Checkpoint(
                run_id=made.id, generation=number, timeline=1, parent=number - 1 or None, step=number * EVERY,
                epoch=None, kind=Kind.FULL, created=datetime.now(UTC), metrics={"eval_loss": value},
                files=tuple(FileEntry(name, 100, manifest.digest_of(b"x" * 100)) for name in NAMES),
            )  # fmt: skip
            place = home / checkpoint.name
            place.mkdir()
            (place / "keepstep.json").write_bytes(manifest.encode(checkpoint))
            made.events.append("committed", step=checkpoint.step, generation=number, timeline=1, kind="full",
                               metrics={"eval_loss": value}, size_bytes=checkpoint.size_bytes, replaces=[])  # fmt: skip


def _seconds(act: Callable[[], object]) -> float:
    begun = time.perf_counter()
    act()
    return time.perf_counter() - begun


def _median(rounds: int, act: Callable[[], object]) -> str:
    times = [_seconds(act) for _ in range(rounds)]
    return f"{statistics.median(times):7.2f} s  ({min(times):.2f} to {max(times):.2f})"


def _commands(root: Path, cache: Path, rounds: int) -> None:
    surroundings = {**os.environ, "XDG_CACHE_HOME": str(cache)}

    def call(*words: str) -> None:
        subprocess.run([sys.executable, "-m", "keepstep", *words], env=surroundings, stdout=subprocess.DEVNULL,
                       stderr=subprocess.DEVNULL, check=True)  # fmt: skip

    for words in (["du", str(root)], ["ls", "--root", str(root)], ["best", "--root", str(root)]):
        shutil.rmtree(cache, ignore_errors=True)
        print(f"  {words[0]:5} cold {_seconds(lambda: call(*words)):7.2f} s")  # noqa: B023
        print(f"  {words[0]:5} warm {_median(rounds, lambda: call(*words))}", flush=True)  # noqa: B023


def _best_of_each(paths: list[Path]) -> None:
    survey = Survey(Memory(None))
    for path in paths:
        survey.best(path)


@click.command()
@click.option("--directory", type=click.Path(path_type=Path, exists=True), required=True)
@click.option("--runs", default=1000, show_default=True)
@click.option("--checkpoints", default=100, show_default=True)
@click.option("--rounds", default=5, show_default=True)
def main(directory: Path, runs: int, checkpoints: int, rounds: int) -> None:
    """Build both trees where they are not there yet, and measure."""
    stock, managed = directory / f"stock-{runs}-{checkpoints}", directory / "managed-200-20"
    for root, build in ((stock, lambda: build_stock(stock, runs, checkpoints)),
                        (managed, lambda: build_managed(managed, 200, 20))):  # fmt: skip
        if not root.exists():
            build()
        found = search(root)
        paths = sorted((*found.runs, *found.stock))
        print(f"{root.name}: {len(paths)} runs")
        print(f"  found      {_median(rounds, partial(search, root))}")
        print(f"  best of each, found already {_median(rounds, partial(_best_of_each, paths))}", flush=True)
        _commands(root, directory / "cache", rounds)


if __name__ == "__main__":
    main()
