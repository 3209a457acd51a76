"""Files that callbacks add, rewrite or drop."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig
from transformers import Trainer, TrainerCallback

from tests.cases.facts import Facts, digest
from tests.cases.parts import BEST_AT_END, Remembers, Scored, adapted, trainer, weights_of_step
from tests.cases.situation import Situation, lacking

LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "lora_dropout": 0.1, "target_modules": ["q_proj", "v_proj"]}


class KeepsAverage(TrainerCallback):
    """Averages the weights over the steps; writes them into each checkpoint, and reads them back from there."""

    average: dict[str, torch.Tensor]
    read: bool | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        self.average = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
        if state.global_step:
            path = self._path(args, state)
            self.read = path.exists()
            self.average = torch.load(path, weights_only=True)

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        for name, parameter in model.named_parameters():
            self.average[name].mul_(0.9).add_(parameter.detach(), alpha=0.1)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.save(self.average, self._path(args, state))

    @staticmethod
    def _path(args: Any, state: Any) -> Path:
        return Path(args.output_dir, f"checkpoint-{state.global_step}", "average.pt")


def averaged(out: Path, **arguments: Any) -> Trainer:
    return trainer(out, callbacks=[KeepsAverage()], **arguments)


def average(trainer: Trainer) -> Facts:
    """The average as it is now, and which checkpoints lack it."""
    callback = next(one for one in trainer.callback_handler.callbacks if isinstance(one, KeepsAverage))
    return {"average": digest(callback.average), "without it": lacking(trainer.args.output_dir, "average.pt")}


class RewritesAdapter(TrainerCallback):
    """Saves the adapter once more in place, and gives it another name of its base."""

    def on_save(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        model.save_pretrained(folder)
        path = folder / "adapter_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": "someone/base"}))


def rewritten(out: Path) -> Trainer:
    config = LoraConfig(task_type="CAUSAL_LM", **LORA)
    return trainer(out, model=adapted(config), callbacks=[RewritesAdapter()])


def bases(trainer: Trainer) -> Facts:
    """What the newest checkpoint's adapter calls its base."""
    newest = Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}", "adapter_config.json")
    return {"base": json.loads(newest.read_text())["base_model_name_or_path"]}


class DropsOldOptimizers(TrainerCallback):
    """Removes the optimizer states of all checkpoints but the newest, to save room."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        for folder in Path(args.output_dir).glob("checkpoint-*"):
            if int(folder.name.rpartition("-")[2]) < state.global_step and os.path.exists(folder / "optimizer.pt"):
                os.unlink(folder / "optimizer.pt")


class WritesReport(TrainerCallback):
    """Leaves a file and a folder of the system's kind in every checkpoint."""

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        folder = Path(args.output_dir, f"checkpoint-{state.global_step}")
        (folder / ".DS_Store").write_bytes(b"\0")
        (folder / "samples").mkdir(exist_ok=True)
        (folder / "samples" / "first.txt").write_text(str(state.global_step))


def reports(trainer: Trainer) -> Facts:
    """The checkpoints that lack the callback's file."""
    return {"without it": lacking(trainer.args.output_dir, "samples/first.txt")}


SITUATIONS = (
    Situation(
        "averaged weights in on_save",
        "a callback writes average.pt into each checkpoint, and reads it at a resume",
        lambda out: averaged(out, save_total_limit=2),
        also=average,
        wants={"without it": []},
    ),
    Situation(
        "averaged weights, thinned",
        "the same, where only the newest checkpoint keeps its optimizer",
        averaged,
        also=average,
        wants={"without it": []},
        attach={"keep": "latest:1,best:2"},
    ),
    Situation(
        "other files in on_save",
        "a callback leaves a stray file and a folder of samples",
        lambda out: trainer(out, callbacks=[WritesReport()]),
        also=reports,
        wants={"without it": []},
    ),
    Situation(
        "a rewritten adapter",
        "a callback saves the adapter again in place, and edits adapter_config.json",
        rewritten,
        also=bases,
        wants={"base": "someone/base"},
    ),
    Situation(
        "dropped optimizer states",
        "a callback removes optimizer.pt of the older checkpoints; the best loads at the end",
        lambda out: trainer(out, Scored, callbacks=[DropsOldOptimizers(), Remembers()], **BEST_AT_END),
        kill=6,
        also=weights_of_step,
        wants={"weights are of step": [4], "best step": 4},
    ),
)
