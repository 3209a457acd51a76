"""The receipt of a resume: exact, equivalent or approximate, with its reasons, in all places where people look."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.data import IterableDataset

from keepstep.integrations.transformers.setup import fingerprint
from keepstep.operations.seeing.receipts import receipts
from keepstep.run import Run
from tests.failures.build import crash, managed, rows, stock, train
from tests.training.tiny import NEWEST

pytestmark = pytest.mark.training


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after step 8."""
    run = tmp_path_factory.mktemp("crashed") / "run"
    crash(run, after=8)
    return run


@pytest.fixture
def run(out: Path, crashed: Path) -> Path:
    """A copy of the crashed run."""
    return Path(shutil.copytree(crashed, out))


def receipt_of(run: Path, resume: Any = True, **settings: Any) -> tuple[str, list[str]]:
    """Level and reasons of resuming a run with other settings."""
    trainer, checkpointer = managed(run, **settings)
    trainer.train(resume_from_checkpoint=resume)
    assert checkpointer.receipt is not None
    return checkpointer.receipt.level.value, [reason.text for reason in checkpointer.receipt.reasons]


def test_nothing_changed(run: Path) -> None:
    """The same training goes on: exact, without a reason."""
    assert receipt_of(run) == ("exact", [])


@pytest.mark.parametrize(
    "settings",
    [
        {"run_name": "second try"},
        {"save_total_limit": 4},
        {"load_best_model_at_end": True},
        {"keep": "latest:2"},
        {"hub_token": "hf_x"},
        {"disable_tqdm": False},
    ],
)
@pytest.mark.quick(3)
def test_what_has_no_effect_on_training(run: Path, settings: dict[str, Any]) -> None:
    """Names, limits and cosmetics leave it exact."""
    assert receipt_of(run, **settings) == ("exact", [])


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"per_device_eval_batch_size": 4}, "per_device_eval_batch_size was 8, now 4"),
        ({"logging_steps": 3}, "logging_steps was 2, now 3"),
        ({"eval_steps": 4}, "eval_steps was 2, now 4"),
        ({"save_steps": 4}, "save_steps was 2, now 4"),
    ],
)
@pytest.mark.quick(2)
def test_another_cadence(run: Path, said: Callable[[], str], settings: dict[str, Any], reason: str) -> None:
    """Another cadence is equivalent."""
    assert receipt_of(run, **settings) == ("equivalent", [reason])
    assert f"WARNING: equivalent: {reason}" in said()


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        pytest.param(
            {"per_device_train_batch_size": 3},
            "per_device_train_batch_size was 4, now 3",
            marks=pytest.mark.skipif(not NEWEST, reason="transformers 4 goes on with the checkpoint's"),
        ),
        ({"num_train_epochs": 3}, "num_train_epochs was 2, now 3"),
        (
            {"lr_scheduler_type": "cosine"},
            "lr_scheduler_type was linear, now cosine: what the arguments say counts from here on",
        ),
        ({"max_grad_norm": 0.5}, "max_grad_norm was 1.0, now 0.5"),
        ({"data": rows(seed=4)}, "the training data has other contents"),
        ({"data": rows(32)}, "data: rows was 24, now 32"),
        ({"ignore_data_skip": True}, "ignore_data_skip was False, now True"),
    ],
)
@pytest.mark.quick("num_train", "contents", "skip")
def test_another_course(run: Path, settings: dict[str, Any], reason: str) -> None:
    """Another batch size, schedule or other data is another course: approximate."""
    level, reasons = receipt_of(run, **settings)

    assert level == "approximate"
    assert reason in reasons


def test_evaluation_data_changed(run: Path) -> None:
    """Other evaluation data leaves the course, and makes the metrics incomparable: equivalent."""
    trainer, checkpointer = managed(run)
    trainer.eval_dataset = rows(8, seed=33)
    trainer.train(resume_from_checkpoint=True)

    assert checkpointer.receipt is not None
    assert checkpointer.receipt.level == "equivalent"
    assert "its metrics can't be compared with earlier ones" in checkpointer.receipt.reasons[0].text


def test_other_versions(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another torch is equivalent: the last bits may differ."""
    now = fingerprint.versions()
    monkeypatch.setattr(fingerprint, "versions", lambda: {**now, "torch": "9.0.0"})

    assert receipt_of(run) == ("equivalent", [f"versions: torch was {now['torch']}, now 9.0.0"])


def test_other_thread_count(run: Path) -> None:
    """Another number of threads sums in another order: equivalent."""
    torch.set_num_threads(2)
    try:
        level, reasons = receipt_of(run)
    finally:
        torch.set_num_threads(1)

    assert (level, reasons) == ("equivalent", ["device: threads was 1, now 2"])


class Stream(IterableDataset[Any]):
    """Rows one after the other, without a length."""

    def __iter__(self) -> Iterator[Any]:
        return iter(rows())


class Changing(IterableDataset[Any]):
    """A stream that gives other rows each time."""

    def __iter__(self) -> Iterator[Any]:
        return iter(random.SystemRandom().sample(rows(), len(rows())))


def test_streaming_dataset(out: Path) -> None:
    """A stream that gives again what it gave is exact."""
    crash(out, after=4, data=Stream(), max_steps=6)

    assert receipt_of(out, data=Stream(), max_steps=6) == ("exact", [])


def test_changing_stream(out: Path) -> None:
    """A stream that gives other batches than before the save: approximate, and said once it is read."""
    crash(out, after=4, data=Changing(), max_steps=6)

    level, reasons = receipt_of(out, data=Changing(), max_steps=6)

    assert level == "approximate"
    assert any("gives other batches than before the save" in reason for reason in reasons)


def test_stock_checkpoint(out: Path) -> None:
    """A stock checkpoint has nothing to be compared with: approximate, unverified, with both reasons."""
    stock_run = out.with_name("stock")
    crash(stock_run, after=4, attached=False)

    _, checkpointer = train(out, stock_run / "checkpoint-4")

    receipt = checkpointer.receipt
    assert receipt is not None
    assert (receipt.level, receipt.verified, receipt.step) == ("approximate", False, 4)
    texts = " ".join(reason.text for reason in receipt.reasons)
    assert "carries no fingerprint" in texts
    assert "stock tools wrote it" in texts


def test_several_reasons(run: Path) -> None:
    """The weakest level of all reasons counts, and all of them are given."""
    level, reasons = receipt_of(run, logging_steps=3, seed=3)

    assert level == "approximate"
    assert reasons == ["logging_steps was 2, now 3", "seed was 42, now 3"]


def test_where_it_is(run: Path, said: Callable[[], str]) -> None:
    """The receipt is `ckpt.receipt`, a "resumed" event, and in the log before training goes on; what is seen of the
    course since is in all three as well.
    """
    path = run / "checkpoint-8" / "optimizer.pt"
    path.write_bytes(path.read_bytes()[:-1])

    _, checkpointer = train(run, "auto", seed=3)

    receipt = checkpointer.receipt
    assert receipt is not None
    assert receipt.step == 6
    assert receipt.path == str(run / "checkpoint-6")
    assert "optimizer.pt" in receipt.passed_over[0]
    (event,) = receipts(Run.open(run).events.read())
    assert {key: event[key] for key in receipt.to_json()} == receipt.to_json()
    head, passed, reason, compared, course = receipt.lines()
    assert compared.startswith("compared: 12 of 12 tensors of the model and 36 of 36 tensors of the optimizer's state")
    assert course == "proved: step 8 came out bit-equal to what the interrupted attempt had logged"
    text = said()
    assert all(line in text for line in (head.replace("proved", "compared"), passed, reason, compared, course))
    assert text.index("Resumed from step 6") < text.index("saved step 8")


def test_exact_is_said_without_alarm(run: Path, said: Callable[[], str]) -> None:
    """An exact resume is information, no warning."""
    train(run, True)

    assert "INFO: Resumed from step 8 (exact, compared; every byte verified)" in said()


def test_no_receipt_after_a_fresh_start(out: Path) -> None:
    """A fresh start has none; neither has a fresh start of a trainer that was resumed before."""
    trainer, checkpointer = managed(out, fresh="new-run")
    trainer.train()
    assert checkpointer.receipt is None

    trainer.train(resume_from_checkpoint=6)
    assert checkpointer.receipt is not None
    trainer.train()

    assert checkpointer.receipt is None


def test_stock_trainer_says_nothing(out: Path, said: Callable[[], str]) -> None:
    """The control: a stock resume with another seed passes without a word."""
    crash(out, after=4, attached=False)
    stock(out, seed=3).train(resume_from_checkpoint=True)

    assert said() == ""
