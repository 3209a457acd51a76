"""Checkpoints whose bytes changed, and checkpoints with a part missing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.errors import CheckpointNotFound, ResumeRefused
from keepstep.repository import MANIFEST_NAME
from keepstep.run import Run
from tests.failures.build import crash, managed, names, receipt, same, stock, train, weights

pytestmark = pytest.mark.training

FILES = (
    "config.json", "generation_config.json", "keepstep_imprint.mpz", "keepstep_state.json", "model.safetensors",
    "optimizer.pt",
    "rng_state.pth", "scheduler.pt", "trainer_state.json", "training_args.bin",
)  # fmt: skip


@pytest.fixture(scope="module")
def two_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that crashed after step 4, with checkpoints of steps 2 and 4."""
    run = tmp_path_factory.mktemp("two-saves") / "run"
    crash(run, after=4)
    return run


@pytest.fixture(scope="module")
def stock_saves(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same under a stock Trainer."""
    run = tmp_path_factory.mktemp("stock-saves") / "run"
    crash(run, after=4, attached=False)
    return run


@pytest.fixture
def run(out: Path, two_saves: Path) -> Path:
    """A copy of the crashed run, free to be damaged."""
    return Path(shutil.copytree(two_saves, out))


@pytest.fixture
def stock_run(out: Path, stock_saves: Path) -> Path:
    """A copy of the crashed stock run, free to be damaged."""
    return Path(shutil.copytree(stock_saves, out.with_name("stock")))


def flip(path: Path, place: float) -> None:
    """Turn one bit around, at a place from 0 (the first byte) to 1 (the last)."""
    data = bytearray(path.read_bytes())
    data[round(place * (len(data) - 1))] ^= 1
    path.write_bytes(data)


def edit_step(path: Path, step: int) -> None:
    """Write another global_step into a trainer_state.json."""
    state = json.loads(path.read_text())
    path.write_text(json.dumps({**state, "global_step": step}))


def test_the_files_of_a_checkpoint_are_the_ones_damaged_here(run: Path) -> None:
    """byte flip: no file of a checkpoint is left out of these tests."""
    found = {path.name for path in (run / "checkpoint-4").iterdir()}

    assert found == {*FILES, MANIFEST_NAME}


@pytest.mark.parametrize("place", [0.0, 0.3, 0.5, 0.9, 1.0])
@pytest.mark.parametrize("file", FILES)
def test_byte_flip_is_found_anywhere(run: Path, file: str, place: float) -> None:
    """byte flip in weights or optimizer.pt | not detected | refused, fall back, said."""
    flip(run / "checkpoint-4" / file, place)
    opened = Run.open(run)

    point = opened.resume_point("auto")
    with pytest.raises(ResumeRefused, match=file):
        opened.resume_point("step:4")

    assert point.checkpoint.step == 2
    assert file in point.passed_over[0].summary()


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("file", ["model.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"])
@pytest.mark.quick("auto")
def test_byte_flip_falls_back(run: Path, said: Callable[[], str], file: str, resume: bool | str) -> None:
    """byte flip in weights or optimizer.pt | not detected | refused, fall back, said."""
    flip(run / "checkpoint-4" / file, 0.5)
    trainer, checkpointer = managed(run)

    trainer.train(resume_from_checkpoint=resume)

    assert receipt(checkpointer).step == 2
    assert file in str(checkpointer.receipt)
    assert f"{file} has other bytes than were written" in said()
    assert names(run)[-1] == "checkpoint-12"
    kept = list((run / ".keepstep" / "quarantine").rglob(file))
    assert len(kept) == 1, "the damaged one is kept until a person decides"


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("place", [0.0, 0.5, 1.0])
@pytest.mark.quick("0.5-auto", "1.0-True")
def test_byte_flip_in_the_manifest(run: Path, said: Callable[[], str], resume: bool | str, place: float) -> None:
    """byte flip in keepstep.json: the one before is used, and the file is named."""
    flip(run / "checkpoint-4" / MANIFEST_NAME, place)
    trainer, checkpointer = managed(run)

    trainer.train(resume_from_checkpoint=resume)

    assert receipt(checkpointer).step == 2
    (passed,) = receipt(checkpointer).passed_over
    for text in (said(), passed):
        assert "checkpoint-4" in text
        assert MANIFEST_NAME in text


def test_byte_flip_in_all_of_them(run: Path) -> None:
    """byte flip in every checkpoint: no fresh start behind the user's back, and each file is named."""
    flip(run / "checkpoint-2" / "optimizer.pt", 0.5)
    flip(run / "checkpoint-4" / "model.safetensors", 0.5)

    for resume in (True, "auto"):
        with pytest.raises(CheckpointNotFound, match=r"model\.safetensors(.|\n)*optimizer\.pt"):
            managed(run)[0].train(resume_from_checkpoint=resume)

    assert names(run) == ["checkpoint-2", "checkpoint-4"]


def test_byte_flip_in_all_manifests(run: Path) -> None:
    """byte flip in every keepstep.json: `auto` does not start anew as if nothing was there."""
    flip(run / "checkpoint-2" / MANIFEST_NAME, 0.5)
    flip(run / "checkpoint-4" / MANIFEST_NAME, 0.5)

    for resume in (True, "auto"):
        with pytest.raises(CheckpointNotFound, match="checkpoint-4"):
            managed(run)[0].train(resume_from_checkpoint=resume)

    assert names(run) == ["checkpoint-2", "checkpoint-4"]


@pytest.mark.long
def test_byte_flip_under_stock(stock_run: Path) -> None:
    """byte flip in weights or optimizer.pt | not detected."""
    flip(stock_run / "checkpoint-4" / "model.safetensors", 0.9)

    trainer = stock(stock_run)
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.global_step == 12


@pytest.mark.parametrize("resume", ["auto", True])
@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.quick("auto")
def test_part_missing(run: Path, said: Callable[[], str], file: str, resume: bool | str) -> None:
    """optimizer.pt or scheduler.pt missing | both silently skipped, fresh optimizer | refused as a resume point."""
    (run / "checkpoint-4" / file).unlink()
    with pytest.raises(ResumeRefused, match=f"{file} is missing"):
        managed(run)[0].train(resume_from_checkpoint=4)

    _, checkpointer = train(run, resume)

    assert receipt(checkpointer).step == 2
    assert f"{file} is missing" in said()


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json"])
def test_part_missing_in_a_stock_checkpoint(out: Path, stock_run: Path, file: str) -> None:
    """optimizer.pt or scheduler.pt missing: a checkpoint without a manifest is refused before it is loaded."""
    path = stock_run / "checkpoint-4"
    (path / file).unlink()
    trainer, _ = managed(out)
    before = weights(trainer.model)

    with pytest.raises(ResumeRefused, match=f"{file} missing"):
        trainer.train(resume_from_checkpoint=str(path))

    assert same(weights(trainer.model), before)


@pytest.mark.parametrize("file", ["optimizer.pt", "scheduler.pt", "rng_state.pth"])
@pytest.mark.long
def test_part_missing_under_stock(stock_run: Path, file: str) -> None:
    """optimizer.pt or scheduler.pt missing | both silently skipped, fresh optimizer."""
    (stock_run / "checkpoint-4" / file).unlink()

    trainer = stock(stock_run)
    trainer.train(resume_from_checkpoint=True)

    assert trainer.state.global_step == 12


def test_global_step_edited(run: Path, said: Callable[[], str]) -> None:
    """rng_state missing, global_step edited | silent, inexact | refused or labelled."""
    edit_step(run / "checkpoint-4" / "trainer_state.json", 3)

    _, checkpointer = train(run, True)

    assert receipt(checkpointer).step == 2
    assert "trainer_state.json" in said()


def test_global_step_edited_in_a_stock_checkpoint(out: Path, stock_run: Path, said: Callable[[], str]) -> None:
    """rng_state missing, global_step edited: without a manifest the resume is labelled as unverified."""
    path = stock_run / "checkpoint-4"
    edit_step(path / "trainer_state.json", 3)

    _, checkpointer = train(out, str(path))

    assert not receipt(checkpointer).verified
    assert checkpointer.receipt.level == "approximate"
    assert "NOT verified" in said()


def test_trainer_state_of_a_stock_checkpoint_is_no_json(out: Path, stock_run: Path) -> None:
    """global_step edited: what can't be read is an error that names the file."""
    path = stock_run / "checkpoint-4"
    (path / "trainer_state.json").write_text("{")

    with pytest.raises(Exception, match=r"trainer_state\.json can't be used"):
        managed(out)[0].train(resume_from_checkpoint=str(path))


@pytest.mark.parametrize("what", ["file", "link", "directory"])
def test_extra_entries_are_refused(run: Path, what: str) -> None:
    """A checkpoint with something in it that keepstep did not write is not what was committed."""
    extra = run / "checkpoint-4" / "pytorch_model.bin"
    if what == "file":
        extra.write_bytes(b"other weights")
    elif what == "link":
        extra.symlink_to(run / "checkpoint-2" / "model.safetensors")
    else:
        extra.mkdir()

    point = Run.open(run).resume_point("auto")

    assert point.checkpoint.step == 2
    assert "pytorch_model.bin" in point.passed_over[0].summary()
