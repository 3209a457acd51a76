"""What was verified is what is loaded: from memory, equal to what stock loaders read, whatever became of the file."""

from __future__ import annotations

import io
import os
import pickle
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

pytest.importorskip("trl")

import safetensors.torch
import torch
from transformers import AutoModelForCausalLM
from transformers.trainer_utils import get_last_checkpoint

import keepstep
from keepstep.engine.holding import HeldFiles
from keepstep.errors import CheckpointCorrupt, ResumeRefused
from keepstep.integrations.transformers.resuming.serving import loads_whole_files, serving
from keepstep.model import CHUNK_BYTES, Checkpoint
from keepstep.repository.verification import sealed
from keepstep.run import Run
from keepstep.stores import LocalStore
from keepstep.transformers import verified
from tests.formats.files import flip, same
from tests.training.tiny import Recipe, build

pytestmark = [
    pytest.mark.training, pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore:.*gradient_checkpointing.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning"),
]  # fmt: skip

TENSOR_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt")


def trained(directory: Path, recipe: Recipe | None = None) -> Run:
    """A finished run of a few steps, saved at each."""
    trainer = build(recipe or Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 1}), directory)
    keepstep.attach(trainer)
    trainer.train()
    return Run.open(directory)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("loading") / "run"
    trained(directory)
    return directory


@pytest.fixture
def run(made: Path, tmp_path: Path) -> Run:
    """A run of two checkpoints that a test may damage."""
    shutil.copytree(made, tmp_path / "run")
    return Run.open(tmp_path / "run")


def newest(run: Run) -> tuple[Checkpoint, Path]:
    checkpoint = run.checkpoints[-1]
    assert checkpoint.path is not None
    return checkpoint, checkpoint.path


# -- holding and serving ---------------------------------------------------------------------------------


def test_a_check_holds_what_a_resume_loads_and_lets_go_of_it_when_it_is_taken(run: Run) -> None:
    checkpoint, path = newest(run)
    held = HeldFiles()
    assert held.check(checkpoint).ok
    assert held.size == sum(file.size for file in checkpoint.files if file.path in TENSOR_FILES)
    assert held.get(path / "training_args.bin") is None
    for name in TENSOR_FILES:
        assert held.get(path / name) == (path / name).read_bytes()
        assert held.take(os.path.relpath(path / name)) == (path / name).read_bytes()
        assert held.take(path / name) is None
    assert held.size == 0
    assert held.check_weights(checkpoint).ok
    assert held.size == (path / "model.safetensors").stat().st_size
    held.clear()
    assert held.size == 0


def test_stock_loaders_get_what_was_verified_when_the_files_are_gone(run: Run) -> None:
    checkpoint, path = newest(run)
    held = HeldFiles()
    weights = safetensors.torch.load_file(path / "model.safetensors")
    states = {name: torch.load(path / name, map_location="cpu", weights_only=True) for name in TENSOR_FILES[1:]}
    assert held.check(checkpoint).ok
    (path / "model.safetensors").unlink()
    (path / "optimizer.pt").write_bytes(b"replaced")
    (path / "scheduler.pt").unlink()
    with serving(held):
        assert same(safetensors.torch.load_file(str(path / "model.safetensors"), device="cpu"), weights)
        loaded = torch.load(str(path / "optimizer.pt"), map_location=torch.device("cpu"), weights_only=True)
        assert same(loaded, states["optimizer.pt"])
        assert same(torch.load(path / "scheduler.pt", weights_only=True), states["scheduler.pt"])
        with pytest.raises(FileNotFoundError):
            safetensors.torch.load_file(path / "model.safetensors")
    assert held.size == 0


@pytest.mark.parametrize(
    "ways", [{}, {"weights_only": False}, {"map_location": "cpu", "weights_only": True, "mmap": True}]
)
def test_any_way_to_call_torch_load_is_served(run: Run, ways: dict[str, Any]) -> None:
    checkpoint, path = newest(run)
    stock = torch.load(path / "optimizer.pt", weights_only=True)
    held = HeldFiles()
    assert held.check(checkpoint).ok
    (path / "optimizer.pt").unlink()
    with serving(held):
        assert same(torch.load(path / "optimizer.pt", **ways), stock)


def test_the_optimizer_lies_in_the_memory_that_was_read(run: Run) -> None:
    checkpoint, path = newest(run)
    held = HeldFiles()
    assert held.check(checkpoint).ok
    image = held.get(path / "optimizer.pt")
    assert image is not None
    with serving(held):
        state = torch.load(path / "optimizer.pt", map_location="cpu", weights_only=True)
    parameters = [torch.nn.Parameter(torch.zeros_like(entry["exp_avg"])) for entry in state["state"].values()]
    decayed = len(state["param_groups"][0]["params"])
    optimizer = torch.optim.AdamW([{"params": parameters[:decayed]}, {"params": parameters[decayed:]}])
    optimizer.load_state_dict(state)
    before = bytes(image)
    for parameter in parameters:
        optimizer.state[parameter]["exp_avg"].fill_(7.0)
    assert bytes(image) != before


def test_other_files_and_objects_are_loaded_as_ever(run: Run, tmp_path: Path) -> None:
    checkpoint, path = newest(run)
    held = HeldFiles()
    assert held.check(checkpoint).ok
    torch.save({"a": (1, 2)}, tmp_path / "own.pt")
    stock = torch.load
    with serving(held):
        assert torch.load(tmp_path / "own.pt") == {"a": (1, 2)}
        with (tmp_path / "own.pt").open("rb") as file:
            assert torch.load(file, weights_only=True) == {"a": (1, 2)}
        with (path / "optimizer.pt").open("rb") as file:
            torch.load(file, weights_only=True)
        other = path.parent / run.checkpoints[0].name / "model.safetensors"
        assert safetensors.torch.load_file(other)
        assert torch.load(path / "training_args.bin", weights_only=False).output_dir
        assert torch.load is not stock
    assert held.get(path / "optimizer.pt") is not None
    assert torch.load is stock


def test_the_stock_loaders_are_put_back_whatever_happens(run: Run) -> None:
    places = [
        (module, name)
        for module in list(sys.modules.values())
        for name in ("load_file", "safe_load_file", "safe_open")
        if module is not None and name in vars(module) and "keepstep" not in module.__name__
    ]
    before = [vars(module)[name] for module, name in places]
    stock = torch.load
    with pytest.raises(pickle.UnpicklingError), serving(HeldFiles()):
        torch.load(io.BytesIO(b"nonsense"))
    assert torch.load is stock
    assert [vars(module)[name] for module, name in places] == before


def test_not_enough_memory_leaves_the_loading_to_stock(run: Run, caplog: pytest.LogCaptureFixture) -> None:
    checkpoint, path = newest(run)
    size = (path / "optimizer.pt").stat().st_size
    held = HeldFiles(free=lambda: size)
    with caplog.at_level("DEBUG", "keepstep"):
        assert held.check(checkpoint).ok
    assert "optimizer.pt has" in caplog.text and "read again to be loaded" in caplog.text
    assert held.get(path / "optimizer.pt") is None and held.get(path / "model.safetensors") is not None
    flip(path / "optimizer.pt", size // 2)
    assert [problem.path for problem in held.check(checkpoint).problems] == ["optimizer.pt"]
    assert held.size == 0
    nothing = HeldFiles(hold=False)
    assert not nothing.check(checkpoint).ok and nothing.check(run.checkpoints[0]).ok and nothing.size == 0


def test_the_best_is_checked_and_held_by_its_weights_alone(run: Run) -> None:
    checkpoint, path = newest(run)
    flip(path / "optimizer.pt", 5)
    (path / "scheduler.pt").unlink()
    held = HeldFiles()
    found = held.check_weights(checkpoint)
    assert found.ok and found.holds_weights
    assert held.get(path / "model.safetensors") is not None and held.get(path / "optimizer.pt") is None
    flip(path / "model.safetensors", 5)
    assert not held.check_weights(checkpoint).ok and held.size == 0


def test_nothing_is_held_of_what_is_no_resume_point(run: Run) -> None:
    checkpoint, path = newest(run)
    (path / "scheduler.pt").unlink()
    held = HeldFiles()
    found = held.check(checkpoint)
    assert (found.ok, found.resumable, found.lost, held.size) == (True, False, ("scheduler.pt",), 0)


def test_files_of_others_are_verified_and_not_held(run: Run) -> None:
    checkpoint, path = newest(run)
    (path / "ema.pt").write_bytes(b"an average")
    with run.writing():
        checkpoint = run.seal(checkpoint)
    held = HeldFiles()
    assert held.check(checkpoint).ok and held.get(path / "ema.pt") is None
    flip(path / "ema.pt", 5)
    found = held.check(checkpoint)
    assert [problem.path for problem in found.problems] == ["ema.pt"]
    assert found.resumable and held.get(path / "optimizer.pt") is not None


def test_trainers_with_loaders_of_their_own_are_left_to_them() -> None:
    class Sharded:
        is_fsdp_enabled = True

    assert not loads_whole_files(Sharded()) and loads_whole_files(object())


@pytest.mark.parametrize("format_1", [False, True], ids=["chunks known", "format 1"])
@pytest.mark.parametrize("place", [0, CHUNK_BYTES - 1, CHUNK_BYTES, 2 * CHUNK_BYTES - 1, -1])
@pytest.mark.parametrize("name", ["model.safetensors", "pytorch_model.bin"])
def test_damage_in_a_large_file_is_found_and_nothing_of_it_is_held(
    tmp_path: Path, place: int, name: str, format_1: bool, run: Run
) -> None:
    directory = tmp_path / "checkpoint-1"
    directory.mkdir()
    safetensors.torch.save_file({"w": torch.arange(9_000_000, dtype=torch.int32)}, directory / name)
    size = (directory / name).stat().st_size
    entry = sealed(LocalStore(tmp_path), f"checkpoint-1/{name}", name, size)
    entry = msgspec.structs.replace(entry, chunks="") if format_1 else entry
    checkpoint = msgspec.structs.replace(run.checkpoints[0], files=(entry,), path=directory)
    held = HeldFiles()
    assert held.check(checkpoint).ok and held.size == size
    assert held.get(directory / name) == (directory / name).read_bytes()
    # What is copied into a model anyway is not copied out of the page cache before.
    assert (str(directory / name) in Path("/proc/self/maps").read_text()) == name.endswith(".safetensors")
    flip(directory / name, place % size)
    assert [problem.path for problem in held.check(checkpoint).problems] == [name]
    assert held.size == 0


def test_who_writes_to_weights_that_came_from_the_page_cache_changes_no_file(tmp_path: Path, run: Run) -> None:
    path = tmp_path / "checkpoint-1" / "model.safetensors"
    path.parent.mkdir()
    safetensors.torch.save_file({"w": torch.arange(9_000_000, dtype=torch.int32)}, path)
    before = path.read_bytes()
    entry = sealed(LocalStore(tmp_path), "checkpoint-1/model.safetensors", "model.safetensors", len(before))
    held = HeldFiles()
    assert held.check(msgspec.structs.replace(run.checkpoints[0], files=(entry,), path=path.parent)).ok
    with serving(held):
        weights = safetensors.torch.load_file(path)
    weights["w"] += 1
    assert torch.equal(weights["w"], torch.arange(1, 9_000_001, dtype=torch.int32))
    assert path.read_bytes() == before


# -- the trainer -----------------------------------------------------------------------------------------


class Touched:
    """Notes which files stock loaders are asked for and which of them reach the disk."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.on_disk: list[str] = []
        self._watch(monkeypatch, torch, "load")
        self._watch(monkeypatch, safetensors.torch, "load_file")
        for module in ("transformers.trainer_utils", "transformers.modeling_utils", "peft.utils.save_and_load"):
            if hasattr(sys.modules.get(module), "safe_load_file"):
                monkeypatch.setattr(sys.modules[module], "safe_load_file", safetensors.torch.load_file)

    def _watch(self, monkeypatch: pytest.MonkeyPatch, module: Any, name: str) -> None:
        original: Callable[..., Any] = getattr(module, name)

        def watched(file: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(file, (str, os.PathLike)):
                self.on_disk.append(Path(file).name)
            return original(file, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)


def _sharded(directory: Path, **arguments: Any) -> Any:
    """A trainer whose checkpoints have their weights in shards."""
    trainer = build(Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 1, **arguments}), directory)
    model: Any = trainer.model
    save = type(model).save_pretrained

    def save_pretrained(*args: Any, **kwargs: Any) -> Any:
        return save(model, *args, **{**kwargs, "max_shard_size": "8KB"})

    model.save_pretrained = save_pretrained
    return trainer


KINDS = {
    "full": lambda directory: build(_RECIPE, directory),
    "lora": lambda directory: build(replace(_RECIPE, lora=True), directory),
    "sft with lora": lambda directory: build(replace(_RECIPE, kind="sft", lora=True), directory),
    "sharded": _sharded,
}
_RECIPE = Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 1})


@pytest.mark.parametrize("kind", KINDS)
def test_a_resume_reads_no_tensor_from_the_disk_twice(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = KINDS[kind](tmp_path / "run")
    keepstep.attach(first)
    first.train()
    run = Run.open(tmp_path / "run")
    _, path = newest(run)
    shards = list(path.glob("model-*.safetensors"))
    assert (len(shards) > 1) == (kind == "sharded")
    run.repository.remove(run.checkpoints[-1])
    touched = Touched(monkeypatch)
    again = KINDS[kind](tmp_path / "run")
    keepstep.attach(again)
    again.train(resume_from_checkpoint=True)
    assert [name for name in touched.on_disk if not name.startswith("rng_state")] == []
    assert again._keepstep.held.size == 0
    for (name, one), other in zip(first.model.state_dict().items(), again.model.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


def test_tied_weights_stay_tied(tmp_path: Path) -> None:
    def make() -> Any:
        trainer = build(_RECIPE, tmp_path / "run")
        model: Any = trainer.model
        model.config.tie_word_embeddings = True
        model.lm_head.weight = model.model.embed_tokens.weight
        trainer.create_optimizer()
        return trainer

    first = make()
    keepstep.attach(first)
    first.train()
    run = Run.open(tmp_path / "run")
    assert "lm_head.weight" not in safetensors.torch.load_file(newest(run)[1] / "model.safetensors")
    run.repository.remove(run.checkpoints[-1])
    again = make()
    keepstep.attach(again)
    again.train(resume_from_checkpoint=True)
    assert again.model.lm_head.weight is again.model.model.embed_tokens.weight
    assert torch.equal(first.model.lm_head.weight, again.model.lm_head.weight)


@pytest.mark.parametrize("name", TENSOR_FILES)
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_a_damaged_candidate_is_passed_over(run: Run, name: str, part: float) -> None:
    _, path = newest(run)
    size = (path / name).stat().st_size
    flip(path / name, min(int(size * part), size - 1))
    trainer = build(Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 2}), run.path)
    ckpt = keepstep.attach(trainer)
    trainer.train(resume_from_checkpoint=True)
    assert ckpt.receipt is not None and ckpt.receipt.step == 1
    assert name in ckpt.receipt.passed_over[0]


@pytest.mark.parametrize("name", TENSOR_FILES)
def test_a_damaged_checkpoint_that_is_named_leaves_the_model_untouched(run: Run, name: str) -> None:
    checkpoint, path = newest(run)
    flip(path / name, (path / name).stat().st_size - 1)
    trainer = build(_RECIPE, run.path)
    keepstep.attach(trainer)
    before = {key: value.clone() for key, value in trainer.model.state_dict().items()}
    for reference in (checkpoint.step, str(path)):
        with pytest.raises(ResumeRefused, match=name):
            trainer.train(resume_from_checkpoint=reference)
        assert same(dict(trainer.model.state_dict()), before)
        assert trainer._keepstep.held.size == 0


def test_a_refused_resume_lets_go_of_what_was_read(run: Run) -> None:
    trainer = build(Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 1, "optim": "sgd"}), run.path)
    keepstep.attach(trainer)
    with pytest.raises(ResumeRefused, match="optimizer"):
        trainer.train(resume_from_checkpoint=True)
    assert trainer._keepstep.held.size == 0


def test_a_stock_checkpoint_is_loaded_by_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(_RECIPE, tmp_path / "stock").train()
    path = get_last_checkpoint(str(tmp_path / "stock"))
    touched = Touched(monkeypatch)
    trainer = build(Recipe(rows=8, arguments={"save_steps": 1, "num_train_epochs": 2}), tmp_path / "run")
    keepstep.attach(trainer)
    trainer.train(resume_from_checkpoint=path)
    assert {"model.safetensors", "optimizer.pt"} <= set(touched.on_disk)


@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
def test_the_best_is_read_once(lora: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = {
        "save_steps": 1, "eval_strategy": "steps", "eval_steps": 1, "num_train_epochs": 1,
        "load_best_model_at_end": True, "metric_for_best_model": "eval_accuracy", "greater_is_better": True,
    }  # fmt: skip
    recipe = Recipe(rows=12, lora=lora, scores={1: 0.5, 2: 0.9, 3: 0.1}, arguments=arguments)
    touched = Touched(monkeypatch)
    trainer = build(recipe, tmp_path / "run")
    ckpt = keepstep.attach(trainer)
    trainer.train()
    assert ckpt.run.best is not None and ckpt.run.best.step == 2
    assert touched.on_disk == []
    assert trainer._keepstep.held.size == 0
    assert ckpt.run.best.path is not None
    saved = safetensors.torch.load_file(next(ckpt.run.best.path.glob("*model.safetensors")))
    state = trainer.model.state_dict()
    names = {name.replace(".default", ""): name for name in state}
    assert all(torch.equal(state[names[name]], tensor) for name, tensor in saved.items())


# -- from_pretrained -------------------------------------------------------------------------------------


@pytest.mark.parametrize("sharded", [False, True], ids=["one file", "sharded"])
def test_from_pretrained_gets_what_was_verified(sharded: bool, tmp_path: Path) -> None:
    trainer = _sharded(tmp_path / "run") if sharded else build(_RECIPE, tmp_path / "run")
    keepstep.attach(trainer)
    trainer.train()
    _, path = newest(Run.open(tmp_path / "run"))
    stock = {name: tensor.clone() for name, tensor in AutoModelForCausalLM.from_pretrained(path).state_dict().items()}
    files = sorted(path.glob("*.safetensors"))
    originals = {file: file.read_bytes() for file in files}
    with verified(path) as checked:
        for file in files:  # the header stays readable for those who only look
            flip(file, file.stat().st_size - 1)
        one, two = (AutoModelForCausalLM.from_pretrained(checked) for _ in range(2))
    assert same(dict(one.state_dict()), stock)
    with torch.no_grad():
        next(one.parameters()).fill_(3.0)
    assert same(dict(two.state_dict()), stock)
    assert any(file.read_bytes() != originals[file] for file in files)
    with pytest.raises(CheckpointCorrupt, match="safetensors"), verified(path):
        pass
    with pytest.raises(FileNotFoundError, match=r"keepstep\.json"), verified(tmp_path):
        pass


def test_an_open_file_is_like_the_librarys(tmp_path: Path, run: Run) -> None:
    checkpoint, path = newest(run)
    file = path / "model.safetensors"
    held = HeldFiles()
    assert held.check(checkpoint).ok
    with safetensors.safe_open(file, "pt") as stock, serving(held), safetensors.safe_open(file, "pt") as ours:
        assert type(ours) is not type(stock)
        assert (ours.keys(), ours.offset_keys(), ours.metadata()) == (
            stock.keys(),
            stock.offset_keys(),
            stock.metadata(),
        )
        assert same(ours.get_tensors(), stock.get_tensors())
        for name in stock.keys():  # noqa: SIM118 - it is no dict
            one, other = ours.get_slice(name), stock.get_slice(name)
            assert (one.get_shape(), one.get_dtype()) == (other.get_shape(), other.get_dtype())
            assert torch.equal(one[...], other[...]) and torch.equal(one[1:2], other[1:2])
        for opened in (ours, stock):
            with pytest.raises(safetensors.SafetensorError, match="does not contain"):
                opened.get_tensor("nothing")
