"""What others log, in whatever form, is saved, or left out and said; the stock Trainer dies of it at its first save."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer_callback import ExportableState

from tests.failures.build import crash, latest, names, stock, train

pytestmark = pytest.mark.training


class Logs(Trainer):
    """Adds an entry to all that is logged."""

    extra: Any = None

    def log(self, logs: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        super().log({**logs, "extra": self.extra}, *args, **kwargs)


def logging(value: Any) -> type[Trainer]:
    """A Logs with that entry."""
    return type("Logs", (Logs,), {"extra": value})


def written(directory: Path) -> list[dict[str, Any]]:
    """The log in a checkpoint, without what the clock says."""
    return _timeless(json.loads((directory / "trainer_state.json").read_text())["log_history"])


def _timeless(log: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{k: v for k, v in entry.items() if not k.endswith(("_runtime", "_per_second"))} for entry in log]


NUMBERS = {
    "float32": (np.float32(0.1), float(np.float32(0.1))), "int64": (np.int64(3), 3), "bool": (np.bool_(True), True),
    "tensor": (torch.tensor(0.5, requires_grad=True), 0.5), "array": (np.array([1.0, 2.0]), [1.0, 2.0]),
    "nested": ({"a": [np.float32(0.5), {"b": torch.tensor(1)}]}, {"a": [0.5, {"b": 1}]}),
}  # fmt: skip


@pytest.mark.parametrize("name", NUMBERS)
@pytest.mark.quick("tensor", "nested")
def test_numbers_of_any_library_are_saved(out: Path, tmp_path: Path, name: str) -> None:
    value, plain = NUMBERS[name]
    with pytest.raises(TypeError, match="not JSON serializable"):
        stock(tmp_path / "stock", trainer_class=logging(value)).train()

    trainer, checkpointer = train(out, trainer_class=logging(value))

    log = written(latest(checkpointer).path)
    assert log and all(entry["extra"] == plain for entry in log)
    assert trainer.state.log_history[0]["extra"] is value, "the trainer's own log is as it was"


def test_what_was_exact_stays_exact(out: Path, tmp_path: Path) -> None:
    """The log of a checkpoint is the trainer's, value for value, and a resumed training goes on with it."""
    control = stock(tmp_path / "stock", trainer_class=logging([1, {"a": None}]))
    control.train()

    crash(out, 6, trainer_class=logging([1, {"a": None}]))
    trainer, checkpointer = train(out, resume="auto", trainer_class=logging([1, {"a": None}]))

    mine, theirs = (_timeless(t.state.log_history)[:-1] for t in (trainer, control))
    assert mine == theirs
    assert written(latest(checkpointer).path) == mine[: len(written(latest(checkpointer).path))]


def test_what_json_can_not_carry_is_left_out_and_said_once(out: Path, said: Callable[[], str]) -> None:
    _, checkpointer = train(out, trainer_class=logging({"a": 1, "b": object()}))

    assert said().count("extra.b of the trainer's state can't be written as JSON: it is left out") == 1
    assert all(entry["extra"] == {"a": 1} for entry in written(latest(checkpointer).path))
    assert len(names(out)) == 6


class Counting(TrainerCallback, ExportableState):
    """A callback whose state is a number of numpy."""

    def state(self) -> dict[str, Any]:
        return {"args": {}, "attributes": {"best": np.float32(0.5)}}


def test_a_callbacks_state_of_numpy_is_saved(out: Path) -> None:
    _, checkpointer = train(out, callbacks=[Counting()])
    state = json.loads((latest(checkpointer).path / "trainer_state.json").read_text())
    assert state["stateful_callbacks"]["Counting"]["attributes"] == {"best": 0.5}


def test_a_log_that_is_begun_anew_is_written_anew(out: Path) -> None:
    class Forgets(TrainerCallback):
        def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            if state.global_step == 6:
                state.log_history.clear()
                state.log_history.append({"note": np.int64(1), "step": 6})

    _, checkpointer = train(out, callbacks=[Forgets()])
    log = written(latest(checkpointer).path)
    assert log[0] == {"note": 1, "step": 6}
    assert min(entry["step"] for entry in log[1:]) == 8
