"""What attaching costs a training until its first step, and each step after it, beside the stock Trainer alone.

python benchmarks/starting.py --rounds 7
python benchmarks/starting.py --rows 1000000 --tokens 100 --directory DISK

Each training is a process of its own, with and without keepstep in turns, on a data set of so many rows, mapped from
the disk. `start` is from the process's begin until its first step begins, imports and the model included; `attach` is
what of it `keepstep.attach` took with its import, and `rest` what `train()` took longer than the stock one's median.
A step is measured from its begin to the next one's, its first ten left out, by the clock and by the processor
time of its thread. Each pair's difference is given by their median, and between which two values half of them lie.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

WARM_UP = 10
STOCK, OURS = "stock", "ours"


def child(data: str, out: str, steps: int, width: int, *, managed: bool) -> dict[str, float]:
    """One training: seconds until its first step, of `attach`, and of a step by the clock and by its thread."""
    import torch
    from datasets import disable_progress_bars, load_from_disk
    from transformers import GPT2Config, GPT2LMHeadModel, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self) -> None:
            self.at: list[tuple[float, float]] = []

        def on_step_begin(self, *_: Any, **__: Any) -> None:
            self.at.append((time.perf_counter(), time.thread_time()))

    torch.set_num_threads(1)
    torch.manual_seed(0)
    disable_progress_bars()
    args = TrainingArguments(
        out, max_steps=steps, per_device_train_batch_size=4, save_strategy="steps", save_steps=10**6, report_to=[],
        logging_steps=10**6, use_cpu=True, disable_tqdm=True,
    )  # fmt: skip
    clock = Clock()
    model = GPT2LMHeadModel(GPT2Config(n_embd=width, n_layer=4, n_head=4, vocab_size=1000))
    trainer = Trainer(model, args, train_dataset=load_from_disk(data), callbacks=[clock])
    before = time.perf_counter()
    if managed:
        import keepstep

        keepstep.attach(trainer)
    attached = time.perf_counter()
    trainer.train()
    pairs = list(zip(clock.at, clock.at[1:], strict=False))[WARM_UP:]
    return {
        "start": _age() - (time.perf_counter() - clock.at[0][0]),
        "attach": attached - before,
        "train": clock.at[0][0] - attached,
        "step": statistics.median(after[0] - begun[0] for begun, after in pairs),
        "thread": statistics.fmean(after[1] - begun[1] for begun, after in pairs),
    }


def _age() -> float:
    """Seconds since this process began."""
    began = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19]) / os.sysconf("SC_CLK_TCK")
    return time.clock_gettime(time.CLOCK_BOOTTIME) - began


def make_data(home: Path, rows: int, tokens: int) -> Path:
    """Rows of tokens, as a tokenizer left them, in files that are mapped."""
    import numpy
    import pyarrow
    from datasets import Dataset

    ids = numpy.random.default_rng(0).integers(0, 1000, rows * tokens, dtype=numpy.int32)
    column = pyarrow.FixedSizeListArray.from_arrays(pyarrow.array(ids), tokens).cast(pyarrow.list_(pyarrow.int32()))
    Dataset(pyarrow.table({"input_ids": column, "labels": column})).save_to_disk(home / "data")
    return home / "data"


def measured(data: Path, home: Path, way: str, turn: int, options: Any) -> dict[str, float]:
    """One training in a process of its own."""
    out = home / f"{way}-{turn}"
    given = ["--child", way, "--data", str(data), "--out", str(out), "--steps", str(options.steps)]
    command = [sys.executable, __file__, *given, "--width", str(options.width)]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"a training ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Run the benchmark and print its table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="trainings of each kind that count; one goes before")
    parser.add_argument("--rows", type=int, default=1_000_000, help="rows of the data set")
    parser.add_argument("--tokens", type=int, default=100, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=150, help="steps of a training")
    parser.add_argument("--width", type=int, default=256, help="width of the GPT-2 that is trained")
    parser.add_argument("--directory", type=Path, help="where data and runs are made; a temporary place else")
    parser.add_argument("--child", choices=(STOCK, OURS), help=argparse.SUPPRESS)
    parser.add_argument("--data", help=argparse.SUPPRESS)
    parser.add_argument("--out", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        found = child(options.data, options.out, options.steps, options.width, managed=options.child == OURS)
        print(json.dumps(found))
        return
    found: dict[str, list[dict[str, float]]] = {STOCK: [], OURS: []}
    with tempfile.TemporaryDirectory(dir=options.directory) as place:
        data = make_data(Path(place), options.rows, options.tokens)
        for turn in range(options.rounds + 1):
            for way in (STOCK, OURS)[:: 1 if turn % 2 else -1]:
                record = measured(data, Path(place), way, turn, options)
                if turn:
                    found[way].append(record)
    _print(found, options)


def _print(found: dict[str, list[dict[str, float]]], options: Any) -> None:
    load = os.getloadavg()[0]
    print(f"{options.rows:,} rows of {options.tokens} tokens, {options.rounds} pairs, load {load:.1f} at the end")
    pairs = list(zip(found[STOCK], found[OURS], strict=True))
    usual = statistics.median(record["train"] for record in found[STOCK])
    print(f"attach {_spread([ours['attach'] for _, ours in pairs])} s")
    print(f"rest   {_spread([ours['train'] - usual for _, ours in pairs])} s")
    for name, unit, scale in (("start", "s", 1.0), ("step", "ms", 1e3), ("thread", "ms", 1e3)):
        stock = statistics.median(record[name] for record, _ in pairs) * scale
        apart = [(ours[name] - other[name]) * scale for other, ours in pairs]
        share = statistics.median(apart) / stock
        print(f"{name:<7}stock {stock:.3f} {unit}; with keepstep {_spread(apart)} {unit} more: {share:+.2%}")


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:.3f} [{low:.3f}, {high:.3f}]"


if __name__ == "__main__":
    main()
