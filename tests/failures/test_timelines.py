"""Going back to an older checkpoint starts a new course; what belonged to the old one is never picked again."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.failures.build import At, crash, files, in_child, latest, names, receipt, steps, stock, train

pytestmark = pytest.mark.training

PEAK_AT_4 = {2: 0.1, 4: 0.9, 6: 0.3, 8: 0.2, 10: 0.4, 12: 0.5}
RANKED: dict[str, Any] = {"scores": PEAK_AT_4, "metric_for_best_model": "accuracy"}


def kill_after(out: Path, after: int, resume: Any) -> None:
    """A training in a process of its own, ended by SIGKILL after a step."""

    def work() -> str:
        train(out, resume, **RANKED, callbacks=[At(after, lambda **_: os.kill(os.getpid(), signal.SIGKILL))])
        return "not killed"

    code, text = in_child(work)
    assert code == -9, text


def test_resume_from_best_then_crash(out: Path, said: Callable[[], str]) -> None:
    """resume from best, crash, `resume=True` | picks a **stale** later checkpoint of the old course | timelines."""
    crash(out, after=10, **RANKED)
    old = files(out / "checkpoint-8")

    kill_after(out, 6, resume="best")

    assert steps(out) == [2, 4, 6], "8 and 10 are of the old course"
    aside = out / ".keepstep" / "timelines" / "1"
    assert names(aside) == ["checkpoint-6", "checkpoint-8", "checkpoint-10"]
    assert files(aside / "checkpoint-8") == old, "set aside, whole"
    _, checkpointer = train(out, True, **RANKED)
    assert receipt(checkpointer).step == 6
    assert "checkpoint-8 belongs to an older course" not in said()
    assert latest(checkpointer).timeline == 2


def test_resume_from_best_then_killed_before_the_next_save(out: Path) -> None:
    """resume from best, crash, `resume=True`: the same where the crash comes before the first save."""
    crash(out, after=10, **RANKED)

    kill_after(out, 5, resume="best")

    _, checkpointer = train(out, True, **RANKED)
    assert receipt(checkpointer).step == 4


def test_resume_from_best_then_exception(out: Path) -> None:
    """resume from best, crash, `resume=True`: twice, and by an exception."""
    crash(out, after=10, **RANKED)
    crash(out, after=8, resume="best", **RANKED)
    crash(out, after=6, resume=4, **RANKED)

    _, checkpointer = train(out, "auto", **RANKED)

    assert receipt(checkpointer).step == 6
    assert latest(checkpointer).timeline == 3
    assert names(out / ".keepstep" / "timelines" / "2") == ["checkpoint-6", "checkpoint-8"]


@pytest.mark.long
def test_resume_from_best_then_crash_under_stock(out: Path) -> None:
    """resume from best, crash, `resume=True` | picks a **stale** later checkpoint of the old course."""
    crash(out, after=10, attached=False, **RANKED)
    crash(out, after=6, attached=False, resume=str(out / "checkpoint-4"), **RANKED)

    seen: list[int] = []
    look = At(10, lambda **_: seen.append(10), "on_train_begin")
    stock(out, **RANKED, callbacks=[look]).train(resume_from_checkpoint=True)

    assert seen == [10]


def test_the_one_resumed_from_stays(out: Path) -> None:
    """resume from best: what a training resumed from is not removed while it runs."""
    crash(out, after=6, eval_strategy="no")
    seen: list[int] = []

    train(out, 2, eval_strategy="no", save_total_limit=1, callbacks=[At(9, lambda **_: seen.extend(steps(out)))])

    assert seen == [2, 8]
    assert steps(out) == [12]
