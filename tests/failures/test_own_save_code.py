"""Users' own save code: it reads back, converts, writes beside or elsewhere, and loads files of its own."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from tests.failures.build import crash, files, managed, names, receipt, same, steps, stock, train, weights

pytestmark = pytest.mark.training

WEIGHTS, OPTIMIZER = "model.safetensors", "optimizer.pt"


class ReadsBack(Trainer):
    """Opens the weights that were just written, and writes a converted copy beside them."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        directory = Path(self._get_output_dir(trial)) / f"checkpoint-{self.state.global_step}"
        tensors = load_file(directory / WEIGHTS)
        save_file({f"x.{name}": tensor for name, tensor in tensors.items()}, directory / "converted.safetensors")


class Rewrites(Trainer):
    """Rewrites the weights in place."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        path = os.path.join(output_dir or str(self.args.output_dir), WEIGHTS)
        save_file(load_file(path), path, {"format": "pt", "rewritten": "yes"})


class ByArguments(Trainer):
    """Builds the path from `args.output_dir`, after the library has saved."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        directory = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        assert (directory / WEIGHTS).is_file() and os.listdir(directory)
        (directory / "mine.txt").write_text("mine")


class ByArgumentsFirst(Trainer):
    """Makes the directory itself, by `args.output_dir`, before the library saves."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = os.path.join(str(self.args.output_dir), f"checkpoint-{self.state.global_step}")
        os.makedirs(directory)
        Path(directory, "mine.txt").write_text("mine")
        super()._save_checkpoint(model, trial)


class ByAnOldPath(Trainer):
    """Knows the path from before, and makes the directory there."""

    home: Path

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        directory = self.home / f"checkpoint-{self.state.global_step}" / "deep"
        directory.mkdir(parents=True)
        (directory / "mine.txt").write_text("mine")
        super()._save_checkpoint(model, trial)


class SecondOptimizer(Trainer):
    """Puts more into optimizer.pt once it is written."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        path = os.path.join(output_dir, OPTIMIZER)
        torch.save(torch.load(path, weights_only=True) | {"extra": 1}, path)


class Elsewhere(Trainer):
    """Writes the weights once more, into a folder of its own in `output_dir`."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self.model.save_pretrained(os.path.join(str(self.args.output_dir), "newest"))


class Links(Trainer):
    """Gives the weights a second name, and takes a file of its own over, by links."""

    base: Path

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        home = Path(str(self.args.output_dir)) / f"checkpoint-{self.state.global_step}"
        (home / "model.first.safetensors").symlink_to(WEIGHTS)
        (home / "model.second.safetensors").symlink_to(home / WEIGHTS)
        (home / "adapter_config.json").symlink_to(os.path.relpath(self.base, home))
        (home / "preprocessor_config.json").symlink_to("nowhere")
        (home / "notes.txt").symlink_to(self.base)


@pytest.mark.parametrize("engine", ["auto", "stock"])
def test_links_of_the_users(engine: str, out: Path, tmp_path: Path, said: Callable[[], str]) -> None:
    """Links in a checkpoint | as they are | "is a link", the training ends -> their files, or a line."""
    Links.base = tmp_path / "base.json"
    Links.base.write_text("{}")
    trainer, checkpointer = managed(out, trainer_class=Links, save_steps=6, eval_steps=6, engine=engine)
    trainer.train()
    lines = [line for line in said().splitlines() if "link" in line]

    assert steps(out) == [6, 12]
    for checkpoint in checkpointer.run.checkpoints:
        assert checkpointer.run.verify(checkpoint).ok
        assert (home := checkpoint.path) is not None
        assert (home / "adapter_config.json").read_text() == "{}"
        assert not (home / "preprocessor_config.json").is_symlink()
        for name in ("model.first.safetensors", "model.second.safetensors"):
            assert not (home / name).is_symlink()
            assert (home / name).read_bytes() == (home / WEIGHTS).read_bytes()
        assert (home / "notes.txt").is_symlink(), "no loader reads it: it stays what it is"
    assert len(lines) == 2 and all("preprocessor_config.json is a link to nowhere" in line for line in lines)
    Links.base.unlink()
    assert all(checkpointer.run.verify(checkpoint).ok for checkpoint in checkpointer.run.checkpoints)


EXPECTED = {
    ReadsBack: {"converted.safetensors"},
    Rewrites: {WEIGHTS},
    ByArguments: {"mine.txt"},
    ByArgumentsFirst: {"mine.txt"},
    ByAnOldPath: {"deep/mine.txt"},
    SecondOptimizer: {OPTIMIZER},
    Elsewhere: {WEIGHTS},
}


@pytest.mark.parametrize("kind", EXPECTED, ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("engine", ["auto", "fast"])
def test_what_own_save_code_writes_is_in_the_checkpoint(
    kind: type[Trainer], engine: str, out: Path, tmp_path: Path, said: Callable[[], str]
) -> None:
    """_save_checkpoint of the user's | as it is | dies with ENOENT -> the same files as the stock Trainer's."""
    beside = tmp_path / "stock"
    ByAnOldPath.home = beside
    stock(beside, trainer_class=kind, save_steps=6, eval_steps=6).train()
    ByAnOldPath.home = out
    trainer, checkpointer = managed(out, trainer_class=kind, save_steps=6, eval_steps=6, engine=engine)
    trainer.train()

    assert steps(out) == [6, 12]
    for step in (6, 12):
        home = f"checkpoint-{step}"
        ours = {name for name in files(out / home) if not name.startswith("keepstep")}
        assert ours == set(files(beside / home))
        assert EXPECTED[kind] <= ours
    assert all(checkpointer.run.verify(checkpoint).ok for checkpoint in checkpointer.run.checkpoints)
    assert {path.name for path in out.iterdir()} - {".keepstep"} == {path.name for path in beside.iterdir()}
    assert not (out / ".keepstep" / "previous").exists()
    if engine == "auto":
        assert f"stock engine: {kind.__name__}._save" in said().replace("save_model", "_save")


@pytest.mark.parametrize("kind", [ReadsBack, SecondOptimizer], ids=lambda kind: kind.__name__)
def test_the_fast_engine_gives_way_once_where_it_is_asked_for(
    kind: type[Trainer], out: Path, said: Callable[[], str]
) -> None:
    trainer, _ = managed(out, trainer_class=kind, engine="fast")
    trainer.train()
    assert steps(out) == [2, 4, 6, 8, 10, 12]
    text = said()
    assert text.count("the stock writers save from here on") == 1
    assert "does not go with the fast engine" in text


def test_a_fault_of_the_users_own_is_raised_as_it_is(out: Path) -> None:
    class Faulty(Trainer):
        def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
            raise KeyError("mine")

    trainer, _ = managed(out, trainer_class=Faulty, engine="fast")
    with pytest.raises(KeyError, match="mine"):
        trainer.train()


def test_a_path_in_the_arguments_is_recorded_as_it_was_given(out: Path) -> None:
    train(out, trainer_class=ByArguments, save_steps=12)
    arguments = torch.load(out / "checkpoint-12" / "training_args.bin", weights_only=False)
    assert arguments.output_dir == str(out) and type(arguments.output_dir) is str


def test_own_code_that_writes_nothing_ends_no_training(out: Path, said: Callable[[], str]) -> None:
    class Keeps(Trainer):
        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            return

    trainer, _ = managed(out, trainer_class=Keeps)
    trainer.train()
    assert trainer.state.global_step == 12 and steps(out) == []
    assert said().count("Keeps._save_checkpoint wrote no file for step") == 1


def test_own_code_that_fails_once_and_then_writes_nothing_ends_no_training(out: Path, said: Callable[[], str]) -> None:
    class Gives(Trainer):
        tried = False

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            if not self.tried:
                self.tried = True
                raise FileNotFoundError("what was just written")

    trainer, _ = managed(out, trainer_class=Gives, engine="fast")
    trainer.train()
    assert trainer.state.global_step == 12 and steps(out) == []
    assert said().count("Gives._save_checkpoint wrote no file for step") == 1


class OwnFile(Trainer):
    """Keeps its weights in a file of its own name, and loads them from there."""

    name = "trainable_params.bin"

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        path = Path(output_dir, self.name)
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(self.model.state_dict(), path)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.model.load_state_dict(torch.load(Path(resume_from_checkpoint, self.name), weights_only=True))

    def _load_best_model(self) -> None:
        self._load_from_checkpoint(str(self.state.best_model_checkpoint))


class InASubFolder(OwnFile):
    """The same in a folder below the checkpoint."""

    name = "0_Transformer/weights.bin"


@pytest.mark.parametrize("kind", [OwnFile, InASubFolder], ids=lambda kind: kind.__name__)
def test_weights_in_files_of_other_names_are_resumed_from(
    kind: type[Trainer], out: Path, uninterrupted: dict[str, Any]
) -> None:
    """weights in a file of its own name | as it is | "model weights missing" -> exact."""
    crash(out, after=6, trainer_class=kind)
    trainer, checkpointer = train(out, True, trainer_class=kind)
    assert same(weights(trainer.model), uninterrupted)
    assert receipt(checkpointer).level == "exact"


def test_a_stock_checkpoint_with_weights_of_another_name_is_resumed_from_by_path(out: Path, tmp_path: Path) -> None:
    crash(tmp_path / "stock", after=6, trainer_class=OwnFile, attached=False)
    trainer, checkpointer = train(out, str(tmp_path / "stock" / "checkpoint-6"), trainer_class=OwnFile)
    assert trainer.state.global_step == 12
    assert receipt(checkpointer).step == 6


def test_the_best_at_the_end_is_loaded_by_the_trainers_own_loader(out: Path) -> None:
    scores = {2: 0.1, 4: 0.9, 6: 0.5, 8: 0.4, 10: 0.3, 12: 0.2}
    trainer, _ = train(
        out, trainer_class=OwnFile, scores=scores, metric_for_best_model="accuracy", load_best_model_at_end=True,
        save_total_limit=2,
    )  # fmt: skip
    saved = torch.load(out / "checkpoint-4" / OwnFile.name, weights_only=True)
    assert all(torch.equal(value, saved[name]) for name, value in trainer.model.state_dict().items())
    assert "checkpoint-4" in names(out)
