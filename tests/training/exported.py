"""Runs of tiny models with checkpoints as stock code writes them, to be exported."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import GPT2Config, GPT2LMHeadModel, LlamaForCausalLM, set_seed

from keepstep.checkpointer import Checkpointer, Facts
from keepstep.retention import Metric, Policy
from keepstep.run import Run
from tests.training.tiny import VOCABULARY, Recipe, model, tokenizer

Change = Callable[[Any], None]
TRAINING = {
    "optimizer.pt": b"o" * 100, "scheduler.pt": b"s", "rng_state.pth": b"r", "training_args.bin": b"a",
    "trainer_state.json": b'{"log_history": []}', "keepstep_state.json": b"{}", "README.md": b"the trainer's card",
}  # fmt: skip
"""What a checkpoint holds beside the model."""


def complaints(stderr: str) -> list[str]:
    """What an export says on stderr, but for what it will take, and how far it is, which a slow machine hears."""
    return [line for line in stderr.splitlines() if not line.startswith(("loading torch and transformers", "At most "))]


def llama(seed: int = 1) -> Any:
    """The tiny Llama, with other weights for every seed."""
    set_seed(seed)
    return model(Recipe())


def gpt2(seed: int = 1) -> Any:
    """A model whose output layer is its embedding."""
    set_seed(seed)
    return GPT2LMHeadModel(GPT2Config(vocab_size=len(VOCABULARY), n_embd=16, n_layer=2, n_head=2, n_positions=64))


def adapted(base: Path, seed: int = 1, **settings: Any) -> Any:
    """A LoRA on a base model in a directory, its second factor filled as a training would."""
    set_seed(seed)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 16, "target_modules": ["q_proj", "v_proj"], **settings}
    built = get_peft_model(LlamaForCausalLM.from_pretrained(base), LoraConfig(task_type="CAUSAL_LM", **options))
    for name, parameter in built.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.2)
    return built


def make_run(
    path: Path, models: Mapping[int, Any], losses: Mapping[int, float] | None = None, keep: str = "all", **saving: Any
) -> Run:
    """A finished run with a checkpoint of each model, by step; the loss is the step where none is given."""
    checkpointer = Checkpointer(path, Policy.from_spec(keep, Metric("eval_loss", "min")))
    checkpointer.begin("auto")

    for step, trained in models.items():

        def write(directory: Path, trained: Any = trained) -> None:
            trained.save_pretrained(directory, **saving)
            tokenizer().save_pretrained(directory)
            for name, content in TRAINING.items():
                (directory / name).write_bytes(content)

        loss = float(step) if losses is None else losses[step]
        facts = Facts(step, epoch=step / 10, metrics={"eval_loss": loss}, written_by={"torch": str(torch.__version__)})
        checkpointer.save(facts, write)
    checkpointer.close()
    return Run.open(path)


def tensors_of(directory: Path) -> dict[str, torch.Tensor]:
    """All tensors in the weights files of a directory."""
    found: dict[str, torch.Tensor] = {}
    for path in sorted(directory.glob("*.safetensors")):
        found |= load_file(path)
    return found


def same(one: Mapping[str, torch.Tensor], other: Mapping[str, torch.Tensor]) -> bool:
    """Equal names, dtypes and bits."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def files_in(directory: Path) -> set[str]:
    """Paths of all files below a directory."""
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}
