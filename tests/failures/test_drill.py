"""Real signals at random moments of real trainings: no step is lost but the one under way, and the end is the same."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from pathlib import Path
from typing import Any

import pytest
from transformers import TrainerCallback

from keepstep import Preempted
from tests.failures.build import events, managed, same, steps, train, weights

pytestmark = pytest.mark.training

SETTINGS: dict[str, Any] = {
    "per_device_train_batch_size": 2, "gradient_accumulation_steps": 2, "save_steps": 3, "eval_steps": 2,
    "logging_steps": 1, "per_device_eval_batch_size": 2,
}  # fmt: skip
"""12 steps of two batches; evaluations of four batches, at every second step."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)
PAUSE = 0.01
"""Seconds in each batch: moments that a signal can fall into."""
BEFORE_TRAIN = 130
"""Exit code of a life that a signal ended before `train()` was called."""


class Slow(TrainerCallback):
    """Batches that take some time."""

    def pause(self, *_: Any, **__: Any) -> None:
        time.sleep(PAUSE)

    on_step_begin = on_substep_end = on_pre_optimizer_step = on_step_end = on_prediction_step = on_save = pause


def live(out: Path) -> None:
    """One life of a training, in a process of its own; it never returns."""
    code = 1
    try:
        trainer, _ = managed(out, callbacks=[Slow()], **SETTINGS)
        trainer.train(resume_from_checkpoint="auto")
        code = 0
    except Preempted as preempted:
        code = preempted.code
    except KeyboardInterrupt:
        code = BEFORE_TRAIN
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def drilled(out: Path, chance: random.Random) -> int | None:
    """One life, ended by a signal at a random moment; returns its exit code, None where it had ended before."""
    child = os.fork()
    if child == 0:
        live(out)
    time.sleep(chance.uniform(0.0, 1.0))
    ended, status = os.waitpid(child, os.WNOHANG)
    if not ended:
        os.kill(child, chance.choice(SIGNALS))
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if not ended else (None if code == 0 else code)


def drill(home: Path, chance: random.Random, count: int, whole: Any) -> dict[int, int]:
    """So many signals, over as many trainings as that takes; returns how often each exit code came."""
    found: dict[int, int] = {}
    told, number = 0, 0
    while told < count:
        out = home / f"run-{number}"
        number += 1
        while True:
            code = drilled(out, chance)
            if code is None:
                break
            told += 1
            found[code] = found.get(code, 0) + 1
            assert code in (0, 75, BEFORE_TRAIN, *(-one for one in SIGNALS)), code
            if code == 75:
                last = events(out, "preempted")[-1]
                assert last["lost_steps"] == 0, last
                assert (last["resumes_at"] or 0) == last["step"] == (steps(out) or [0])[-1]
            if code == 0 or told >= count:
                break
        trainer, checkpointer = train(out, "auto", **SETTINGS)
        assert same(weights(trainer.model), weights(whole.model))
        assert checkpointer.receipt is None or checkpointer.receipt.level.value == "exact", checkpointer.receipt
    return found


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The training that nothing disturbs."""
    return train(tmp_path_factory.mktemp("whole") / "run", **SETTINGS)[0]


@pytest.mark.long
def test_six_signals_at_random_moments(tmp_path: Path, whole: Any) -> None:
    found = drill(tmp_path, random.Random(5), 6, whole)
    assert found.get(75, 0) >= 2, found


@pytest.mark.campaign
def test_many_signals_at_random_moments(tmp_path: Path, whole: Any) -> None:
    """`KEEPSTEP_TEST_SIGNALS` says how many."""
    count = int(os.environ.get("KEEPSTEP_TEST_SIGNALS", "30"))
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    found = drill(tmp_path, random.Random(seed), count, whole)
    print(found)
    assert found.get(75, 0) >= count // 3, found
