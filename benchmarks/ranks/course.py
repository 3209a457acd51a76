"""One course: each rank trains in a process of its own while one method saves; rank 0 times everything."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from benchmarks.ranks.methods import METHODS, SHARDED, of
from benchmarks.saves.course import ENDLESS, WARM_STEPS, Ruler, _Held, _relative, time_saves
from benchmarks.saves.spec import CourseSpec
from benchmarks.saves.watcher import Save, Watcher, monotonic
from benchmarks.saves.workloads import Tokens
from tests.sharded import cpu_fsdp
from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments
from transformers.utils.logging import disable_progress_bar

LENGTH = 32
"""Tokens of a row; a rank trains on one row a step."""


class Unwatched(Watcher):
    """Of a rank that is not timed: rank 0 follows the saves of all."""

    def follow(self, save: Save) -> None:
        """Only remember it."""
        self.saves.append(save)

    @property
    def idle(self) -> bool:
        """Rank 0 decides."""
        return True


class Together(TrainerCallback):
    """A ruler whose rank 0 decides for all: when to save, and when to end."""

    def __init__(self, ruler: Ruler) -> None:
        self._ruler = ruler
        self._group: Any = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Step 0 ends here."""
        self._group = dist.new_group(backend="gloo")
        self._ruler.on_train_begin(args, state, control)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take the time first, then hear what rank 0 has decided."""
        self._ruler.on_step_end(args, state, control)
        said = torch.tensor([control.should_save, control.should_training_stop], dtype=torch.uint8)
        dist.broadcast(said, 0, group=self._group)
        control.should_save, control.should_training_stop = (bool(one) for one in said)
        self._ruler.asked = control.should_save


def run(spec: CourseSpec) -> dict[str, Any]:
    """Train and save on this rank; rank 0's times, or what the method refused with."""
    torch.set_num_threads(spec.threads)
    cpu_fsdp.allow()
    directory = Path(spec.directory)
    trainer, about = make_trainer(spec, directory)
    method = of(spec.method, trainer, directory)
    before = os.getloadavg()[0]
    try:
        method.setup()
        watcher = (Unwatched if int(os.environ["RANK"]) else Watcher)(method, monotonic)
        ruler = Ruler(spec, watcher)
        trainer.add_callback(Together(ruler))
        trainer.add_callback(_Held(method, watcher))
        time_saves(trainer, method, watcher, ruler)
        trainer.train()
        watcher.close()
        method.close()
    except Exception as error:
        return {"refused": f"{type(error).__name__}: {error}", "about": about}
    cpu = [seconds - ruler.cpu[0] for seconds in ruler.cpu]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, cpu)
    return {
        "boundaries": [time - ruler.boundaries[0] for time in ruler.boundaries],
        "cpu": [sum(each) for each in zip(*every, strict=True)],
        "saves": [_relative(save, ruler.boundaries[0]) for save in watcher.saves],
        "warm_steps": WARM_STEPS,
        "about": about,
        "load": [before, os.getloadavg()[0]],
    }


def make_trainer(spec: CourseSpec, directory: Path) -> tuple[Trainer, str]:
    """A Trainer with FSDP2 on the CPU that neither logs nor evaluates; and what it trains, in words."""
    disable_progress_bar()
    torch.manual_seed(0)
    model: Any = (
        LlamaForCausalLM.from_pretrained(spec.llama, dtype=torch.float32)
        if spec.llama
        else LlamaForCausalLM(LlamaConfig(**_SHAPE))
    )
    arguments = TrainingArguments(
        output_dir=str(directory),
        per_device_train_batch_size=1,
        max_steps=ENDLESS,
        learning_rate=2e-5,
        save_strategy="steps",
        save_steps=ENDLESS,
        logging_strategy="no",
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        fsdp=True,
        fsdp_config={
            "version": 2,
            "state_dict_type": METHODS[spec.method].layout if spec.method in METHODS else SHARDED,
        },
    )
    millions = sum(parameter.numel() for parameter in model.parameters()) / 1e6
    kind = "stories15M" if spec.llama else "a random Llama of its shape"
    about = f"{kind}, {millions:.1f}M parameters in fp32, AdamW, FSDP2 on the CPU over gloo"
    return Trainer(model=model, args=arguments, train_dataset=Tokens(model.config.vocab_size, LENGTH)), about


_SHAPE = {
    "vocab_size": 32000,
    "hidden_size": 288,
    "intermediate_size": 768,
    "num_hidden_layers": 6,
    "num_attention_heads": 6,
    "num_key_value_heads": 6,
    "max_position_embeddings": 256,
    "tie_word_embeddings": True,
}
