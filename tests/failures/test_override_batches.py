"""Other batches at a resume: no sample of the running epoch is seen twice or left out, whatever a step has."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import BatchSampler, DataLoader, RandomSampler
from transformers import Trainer

import keepstep
from keepstep import Checkpointer
from keepstep.errors import ResumeRefused
from keepstep.integrations.transformers.resuming.samples_seen import batches_left, pass_over
from tests.failures.build import CrashAfter, Crashed, receipt, stock
from tests.training.tiny import by_length, pad

pytestmark = pytest.mark.training
ROWS = 22
BATCH, STEPS = "per_device_train_batch_size", "gradient_accumulation_steps"


def numbered(count: int = ROWS) -> list[dict[str, torch.Tensor]]:
    """Rows that begin with their own number."""
    return [{"input_ids": torch.tensor([n, *[n % 7] * 3]), "labels": torch.tensor([n, *[1] * 3])} for n in range(count)]


class Seeing(Trainer):
    """Notes which rows each step has, and where each began in its epoch."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: dict[int, list[int]] = {}
        self.scales: dict[int, list[int]] = {}

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.seen.setdefault(self.state.global_step, []).extend(inputs["input_ids"][:, 0].tolist())
        self.scales.setdefault(self.state.global_step, []).append(self.current_gradient_accumulation_steps)
        return super().training_step(model, inputs, *args, **kwargs)

    @property
    def scaled(self) -> bool:
        """True where each batch counted as one of those that its step really had."""
        return all(scales == [len(scales)] * len(scales) for scales in self.scales.values())

    @property
    def rows(self) -> list[int]:
        """All rows that were trained on, in their order."""
        return [row for rows in self.seen.values() for row in rows]


def training(
    out: Path, reference: Any, *, crash: int = 0, override: Any = (), data: Any = None, **settings: Any
) -> tuple[Seeing, Checkpointer]:
    """A training that is begun, or resumed by an override, and killed after a step where that is said."""
    arguments = {"eval_strategy": "no", "save_steps": 1, "logging_steps": 50, **settings}
    callbacks = [CrashAfter(crash)] if crash else []
    trainer = stock(out, trainer_class=Seeing, data=data or numbered(), callbacks=callbacks, **arguments)
    assert isinstance(trainer, Seeing)
    if data is not None:
        trainer.data_collator = pad
    checkpointer = keepstep.attach(trainer, override=override, keep="all")
    if crash:
        with pytest.raises(Crashed):
            trainer.train(resume_from_checkpoint=reference)
    else:
        trainer.train(resume_from_checkpoint=reference)
    return trainer, checkpointer


@pytest.fixture(scope="module")
def order(tmp_path_factory: pytest.TempPathFactory) -> list[int]:
    """The rows of three epochs, in the order in which a training sees them that nothing happens to."""
    trainer, _ = training(tmp_path_factory.mktemp("order"), None, num_train_epochs=3, **{BATCH: 4, "save_steps": 100})
    assert len(trainer.rows) == 3 * ROWS
    return trainer.rows


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Mapping[tuple[int, int], Path]:
    """Runs of three epochs by batch and accumulation, killed early in their second epoch."""
    made: dict[tuple[int, int], Path] = {}
    for batch, steps in ((4, 1), (2, 2), (3, 1)):
        out = made[batch, steps] = tmp_path_factory.mktemp("run") / "run"
        training(out, None, crash=-(-ROWS // (batch * steps)) + 3, num_train_epochs=3, **{BATCH: batch, STEPS: steps})
    return made


@pytest.mark.parametrize(
    ("before", "now", "within"),
    [
        ((4, 1), (2, 1), 3),  # half of it
        ((4, 1), (2, 2), 3),  # the same samples for each step
        ((2, 2), (4, 1), 2),
        ((3, 1), (8, 1), 1),  # fewer seen than a batch has
        ((3, 1), (4, 2), 1),
        ((4, 1), (3, 1), 2),  # no multiple
        ((3, 1), (2, 4), 3),  # in the middle of a step
        ((2, 2), (1, 8), 3),
        ((4, 1), (5, 2), 0),  # between two epochs
    ],
)
@pytest.mark.quick("now0", "now3", "now6", "now8")
def test_samples(
    out: Path,
    order: list[int],
    runs: Mapping[tuple[int, int], Path],
    *,
    before: tuple[int, int],
    now: tuple[int, int],
    within: int,
) -> None:
    """The epoch goes on at the sample where it stood; so it does after one more kill, without an override."""
    shutil.copytree(runs[before], out)
    epoch = -(-ROWS // (before[0] * before[1]))
    step, size = epoch + within, now[0] * now[1]
    seen = ROWS + before[0] * before[1] * within
    settings = {"num_train_epochs": 3, BATCH: now[0], STEPS: now[1]}

    first, checkpointer = training(out, step, crash=step + 2, override=[BATCH, STEPS], **settings)
    second, _ = training(out, "auto", override=[], **settings)

    assert first.rows + second.rows == order[seen:], "each sample once, in the order of an undisturbed training"
    batches, left = -(-ROWS // now[0]), -(-(ROWS - before[0] * before[1] * within) // now[0])
    steps_left = -(-batches // now[1]) - (batches - left) // now[1]
    assert second.state.global_step == second.state.max_steps == step + steps_left - (-batches // now[1])
    assert second.state.epoch == 3.0
    assert first.scaled
    assert second.scaled
    sizes = [len(rows) for rows in (first.seen | second.seen).values()]
    assert max(sizes) <= size
    assert sum(sizes) == len(order) - seen
    said = "\n".join(reason.text for reason in receipt(checkpointer).reasons)
    if within:
        assert f"{seen - ROWS} samples seen stay seen; epoch 2 goes on at sample {seen - ROWS} of {ROWS}" in said
    else:
        assert "no epoch is under way" in said
    assert f"the global step stays {step}, which counts steps made, of {second.state.max_steps}" in said
    level = "equivalent" if before[0] * before[1] == size else "approximate"
    assert receipt(checkpointer).level == level


def test_steps_by_max_steps(out: Path, order: list[int], runs: Mapping[tuple[int, int], Path]) -> None:
    """A training by steps has as many as it says, and as many epochs as these need."""
    shutil.copytree(runs[4, 1], out)
    trainer, _ = training(out, 8, override=BATCH, max_steps=30, **{BATCH: 2})
    seen = ROWS + 8
    assert trainer.state.global_step == 30
    assert trainer.rows[: 2 * ROWS - 8] == order[seen:]
    assert len(trainer.rows) == 44, "22 steps of 2"


@pytest.mark.parametrize(
    ("sampling", "within", "batch"),
    [
        ({"accelerator_config": {"use_seedable_sampler": False}}, 2, 3),
        ({"accelerator_config": {"use_seedable_sampler": False}}, 1, 8),
        (by_length(), 2, 3),
    ],
    ids=["unseeded", "unseeded, and none passed over", "by length"],
)
@pytest.mark.quick("none passed", "by length")
def test_other_samplers(out: Path, sampling: dict[str, Any], within: int, batch: int) -> None:
    """Orders that are drawn from the global random state, or grouped by length in blocks of a step, stay as well."""
    data = [{"input_ids": [number, *[3] * (1 + number * 5 % 7)]} for number in range(ROWS)]
    settings = {"num_train_epochs": 2, "data": data, **sampling}
    whole, _ = training(out.with_name("whole"), None, **{BATCH: 4, **settings})
    step = 6 + within
    training(out, None, crash=step, **{BATCH: 4, **settings})
    first, _ = training(out, step, crash=step + 1, override=BATCH, **{BATCH: batch, **settings})
    second, _ = training(out, "auto", override=BATCH, **{BATCH: batch, **settings})
    assert first.rows + second.rows == whole.rows[ROWS + 4 * within :]


@pytest.mark.long
def test_what_is_dropped_at_the_end(out: Path) -> None:
    """With dataloader_drop_last a rest that is no batch is dropped, of the new batches."""
    settings = {"num_train_epochs": 2, "dataloader_drop_last": True}
    whole, _ = training(out.with_name("whole"), None, num_train_epochs=2, **{BATCH: 1})
    training(out, None, crash=7, **{BATCH: 4, **settings})
    trainer, _ = training(out, 7, override=BATCH, **{BATCH: 3, **settings})
    assert trainer.rows == whole.rows[ROWS + 8 : ROWS + 8 + 12]
    assert trainer.state.global_step == trainer.state.max_steps == 11


def test_a_checkpoint_of_stock_tools(out: Path, order: list[int]) -> None:
    """trainer_state.json of the stock Trainer tells the place as well."""
    trainer = stock(
        out, trainer_class=Seeing, data=numbered(), callbacks=[CrashAfter(8)], eval_strategy="no", save_steps=1,
        num_train_epochs=3,
    )  # fmt: skip
    with pytest.raises(Crashed):
        trainer.train()
    resumed, _ = training(out, str(out / "checkpoint-8"), override=BATCH, num_train_epochs=3, **{BATCH: 2})
    assert resumed.rows == order[ROWS + 8 :]


class Stream(torch.utils.data.IterableDataset[Any]):
    """Rows without a length."""

    def __iter__(self) -> Any:
        return iter([{"input_ids": [number, 3, 4]} for number in range(ROWS)] * 4)


def test_a_stream_is_refused(out: Path) -> None:
    """Where the place can't be told it is refused, with the reason and the ways out."""
    training(out, None, crash=3, data=Stream(), max_steps=8)
    with pytest.raises(ResumeRefused, match="a stream without a length") as refused:
        training(out, "auto", override=BATCH, data=Stream(), max_steps=8, **{BATCH: 2})
    assert "ignore_data_skip=True" in str(refused.value.hint)
    same, _ = training(out, "auto", override=BATCH, data=Stream(), max_steps=8)
    assert same.state.global_step == 8


@pytest.mark.parametrize("found", [False, True], ids=["given", "found"])
def test_without_override(out: Path, order: list[int], runs: Mapping[tuple[int, int], Path], *, found: bool) -> None:
    """Which batch is in force is the Trainer's: where it takes the checkpoint's, the receipt says so."""
    shutil.copytree(runs[4, 1], out)
    step = -(-ROWS // 4) + 3
    settings = {"num_train_epochs": 3, BATCH: 3, "auto_find_batch_size": found}

    trainer, checkpointer = training(out, step, crash=step + 2, **settings)

    size = len(trainer.seen[step])
    assert size == (4 if found or int(transformers.__version__.split(".")[0]) < 5 else 3)
    said = f'{BATCH} was 4, now 3: the Trainer goes on with the checkpoint\'s; override=["{BATCH}"] takes the new one'
    assert (said in [reason.text for reason in receipt(checkpointer).reasons]) == (size == 4)
    if size == 4:
        assert trainer.rows == order[ROWS + 12 : ROWS + 20]


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("processes", [1, 2, 3])
@pytest.mark.parametrize(("rows", "seen", "batch"), [(22, 9, 2), (23, 1, 4), (17, 16, 3), (40, 12, 4)])
def test_shares_of_processes(rows: int, seen: int, batch: int, processes: int, *, drop_last: bool) -> None:
    """What accelerate divides among processes begins where the epoch stood, and ends as an epoch does."""
    torch.manual_seed(3)
    whole = list(RandomSampler(range(rows)))
    shares: list[list[list[int]]] = []
    for rank in range(processes):
        torch.manual_seed(3)
        base = DataLoader(range(rows), batch_sampler=BatchSampler(RandomSampler(range(rows)), batch, drop_last))
        loader = prepare_data_loader(base, num_processes=processes, process_index=rank, put_on_device=False)
        left = batches_left(loader, seen)
        skipped = len(loader) - left
        pass_over(loader, seen=seen, counted=skipped * batch * processes, grouping=None)
        shares.append(list(loader.batch_sampler)[skipped:])
        assert len(shares[rank]) == left
        assert len(loader) == left + skipped
        assert type(base.batch_sampler.sampler) is RandomSampler, "the next epoch is drawn as ever"
    drawn = [row for turn in zip(*shares, strict=True) for part in turn for row in part]
    rest = whole[seen:]
    assert drawn[: len(rest)] == rest[: len(drawn)]
    if drop_last:
        assert len(rest) - len(drawn) < batch * processes
    else:
        assert len(drawn) >= len(rest)
