"""Situations played through: each life in a process of its own, forked from one that imported the libraries once."""

from __future__ import annotations

import json
import os
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from tests.cases.facts import plain
from tests.cases.situation import CONTROL, Side, Situation
from tests.cases.told import situation_called
from tests.cases.verdict import Ending, Row, Trial, Verdict, row
from tests.training import course, processes

processes.PRELOADED.append(__name__)
MEMORY = Path("/dev/shm")


def play(situations: Sequence[Situation], engines: Sequence[str], jobs: int, keep: Path | None = None) -> Iterator[Row]:
    """The rows of situations, each as it is done, `jobs` at a time; `keep` is where what they leave may stay."""
    processes.start()
    with ThreadPoolExecutor(jobs) as pool:
        running = [pool.submit(rows_of, situation, engines, keep) for situation in situations]
        for done in as_completed(running):
            yield from done.result()


def rows_of(situation: Situation, engines: Sequence[str], keep: Path | None = None) -> list[Row]:
    """A situation with the stock Trainer by itself, then with each engine."""
    if missing := situation.missing():
        return [Row(situation.name, engine, Verdict.NOT_RUN, f"no {missing}", "") for engine in engines]
    memory = MEMORY if os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=memory, ignore_cleanup_errors=True) as temporary:
        home = Path(temporary).resolve() if keep is None else keep / _file_name(situation.name)
        began = time.monotonic()
        stock = trial(situation, CONTROL, home / "control")
        rows = []
        for engine in engines:
            ours = trial(situation, engine, home / engine)
            rows.append(
                replace(row(situation.name, engine, ours, stock, situation.wants), seconds=time.monotonic() - began)
            )
            began = time.monotonic()
        return rows


def trial(situation: Situation, engine: str | None, home: Path) -> Trial:
    """Both trainings of a situation with one side; what they leave lies below `home`."""
    (home / "results").mkdir(parents=True)
    whole = _training(situation, engine, home, left_alone=True)
    return Trial(whole[0], _training(situation, engine, home, left_alone=False))


def _training(situation: Situation, engine: str | None, home: Path, *, left_alone: bool) -> tuple[Ending, ...]:
    out = home / ("whole" if left_alone else "broken")
    endings = []
    for number in range(len(situation.lives(left_alone=left_alone))):
        result = home / "results" / f"{out.name}-{number}.json"
        arguments = (situation.name, (left_alone, number), engine, out, result)
        code = processes.call(live, *arguments, log=result.with_suffix(".log"))
        left = json.loads(result.read_text()) if result.exists() else {}
        endings.append(Ending(code, left.get("facts"), left.get("error", "")))
        if code > 0:
            break
    return tuple(endings)


def live(name: str, life: tuple[bool, int], engine: str | None, out: Path, result: Path) -> None:
    """One life of a situation, in its own process; leaves its facts or its error in the file `result`."""
    course.settle()
    left_alone, number = life
    situation = situation_called(name)
    try:
        facts = situation.lives(left_alone=left_alone)[number](Side(engine), out)
    except Exception as error:
        traceback.print_exc()
        text = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}".replace(f"{out.parent}/", "")
        result.write_text(json.dumps({"error": text}))
        raise SystemExit(1) from None
    result.write_text(json.dumps({"facts": dict(facts)}, default=plain))


def _warm_up() -> None:
    """What transformers 5 works out at a process's first save; those that are forked from this one find it done."""
    if find_spec("transformers.conversion_mapping") is not None:
        import_module("transformers.conversion_mapping").get_checkpoint_conversion_mapping("llama")


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() else "-" for letter in name)


_warm_up()
