"""Users' own save code."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from transformers import Trainer

from tests.cases.facts import Facts, digest
from tests.cases.parts import BEST_AT_END, SCORES, Remembers, trainer, weights_of_step
from tests.cases.situation import Situation, checkpoints, holding


def _folder(trainer: Trainer, trial: Any) -> str:
    return os.path.join(trainer._get_output_dir(trial), f"checkpoint-{trainer.state.global_step}")


class ReadsBack(Trainer):
    """Opens the weights that were just saved, and writes a converted copy beside them."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        folder = _folder(self, trial)
        tensors = load_file(os.path.join(folder, "model.safetensors"))
        save_file(
            {f"other.{name}": tensor for name, tensor in tensors.items()}, os.path.join(folder, "other.safetensors")
        )


class Rounds(Trainer):
    """Rewrites the weights' file in place, in half precision and back."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        super().save_model(output_dir, _internal_call)
        path = os.path.join(output_dir or self.args.output_dir, "model.safetensors")
        tensors = {name.removeprefix("_orig_mod."): tensor.half().float() for name, tensor in load_file(path).items()}
        save_file(tensors, path, {"format": "pt"})


class WritesAfter(Trainer):
    """Writes beside what was saved, by a path made from `args.output_dir`."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        self._write()

    def _write(self) -> None:
        folder = os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}")
        torch.save({"step": self.state.global_step}, os.path.join(folder, "mine.pt"))


class WritesBefore(WritesAfter):
    """The same before the save, with the folder made for it."""

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        os.makedirs(os.path.join(self.args.output_dir, f"checkpoint-{self.state.global_step}"), exist_ok=True)
        self._write()
        Trainer._save_checkpoint(self, model, trial)


class AddsToOptimizer(Trainer):
    """Reads the optimizer's file and writes it with more in it."""

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        path = os.path.join(output_dir, "optimizer.pt")
        torch.save(torch.load(path, weights_only=True) | {"mine": 1}, path)


class OwnFile(Trainer):
    """Saves and loads the weights in a file of its own name."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        torch.save(self.model.state_dict(), os.path.join(output_dir, "trained.bin"))
        torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self._load(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        self._load(self.state.best_model_checkpoint)

    def _load(self, folder: str) -> None:
        self.model.load_state_dict(torch.load(os.path.join(folder, "trained.bin"), weights_only=True))


class OwnFileScored(OwnFile):
    """The same, with a score that is best at step 4."""

    def evaluation_loop(self, *args: Any, **kwargs: Any) -> Any:
        output = super().evaluation_loop(*args, **kwargs)
        output.metrics["eval_accuracy"] = SCORES[self.state.global_step]
        return output


class SubFolder(Trainer):
    """Saves and loads the weights in a folder of the checkpoint, as trainers of pipelines do."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        self.model.save_pretrained(os.path.join(output_dir, "0_Model"))
        torch.save(self.args, os.path.join(output_dir, "training_args.bin"))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        path = os.path.join(resume_from_checkpoint, "0_Model", "model.safetensors")
        self.model.load_state_dict(load_file(path), strict=False)


def fewer_saves(kind: type[Trainer]) -> Callable[[Path], Trainer]:
    """Ten steps, saved at 4, 8 and the end."""
    return lambda out: trainer(out, kind, save_steps=4, eval_steps=4)


def with_file(name: str) -> Callable[[Trainer], Facts]:
    """The checkpoints that have a file."""
    return lambda trainer: {f"with {name}": holding(trainer.args.output_dir, name)}


def saved_weights(trainer: Trainer) -> Facts:
    """The digest of the newest checkpoint's weights."""
    newest = checkpoints(trainer.args.output_dir)[-1]
    return {"saved": digest(load_file(newest / "model.safetensors"))}


def saved_optimizer(trainer: Trainer) -> Facts:
    """What else than torch's own lies in the newest optimizer's file."""
    newest = checkpoints(trainer.args.output_dir)[-1]
    return {"mine": torch.load(newest / "optimizer.pt", weights_only=True).get("mine")}


ALL = [4, 8, 10]
SITUATIONS = (
    Situation(
        "a save that reads back",
        "_save_checkpoint opens what was just saved, and writes a converted copy",
        fewer_saves(ReadsBack),
        also=with_file("other.safetensors"),
        wants={"with other.safetensors": ALL},
    ),
    Situation(
        "a save that rewrites the weights",
        "save_model rewrites model.safetensors in place",
        fewer_saves(Rounds),
        also=saved_weights,
    ),
    Situation(
        "a save that writes by args.output_dir",
        "_save_checkpoint writes a file after the stock one",
        fewer_saves(WritesAfter),
        also=with_file("mine.pt"),
        wants={"with mine.pt": ALL},
    ),
    Situation(
        "a save that makes the folder first",
        "_save_checkpoint makes the folder, and writes before the stock one",
        fewer_saves(WritesBefore),
        also=with_file("mine.pt"),
        wants={"with mine.pt": ALL},
    ),
    Situation(
        "more in the optimizer's file",
        "_save_optimizer_and_scheduler writes optimizer.pt anew",
        fewer_saves(AddsToOptimizer),
        also=saved_optimizer,
        wants={"mine": 1},
    ),
    Situation(
        "weights in a file of its own",
        "_save and the loaders of a subclass use another name",
        lambda out: trainer(out, OwnFile, save_total_limit=2),
    ),
    Situation(
        "weights in a sub-folder",
        "_save and the loader of a subclass use a folder of the checkpoint",
        lambda out: trainer(out, SubFolder, save_total_limit=2),
    ),
    Situation(
        "the best from a file of its own",
        "weights under another name, and the best loads at the end",
        lambda out: trainer(out, OwnFileScored, callbacks=[Remembers()], **BEST_AT_END),
        kill=6,
        also=weights_of_step,
        wants={"weights are of step": [4]},
    ),
)
