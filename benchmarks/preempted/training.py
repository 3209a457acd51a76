"""One life of a small training: it goes on from what is there, and writes down which steps it trained.

    python -m benchmarks.preempted.training KIND DIRECTORY

KIND is `keepstep`, `stock`, or `jit` (the stock Trainer with `enable_jit_checkpoint`). Below torchrun it is one rank.
"""

from __future__ import annotations

import hashlib
import os
import sys
import time
from pathlib import Path
from typing import Any

KEEPSTEP, STOCK, JIT = "keepstep", "stock", "jit"
STEPS = 16
PAUSE = 0.03
"""Seconds in each batch: moments that a signal can fall into."""
RANK = int(os.environ.get("RANK", "0"))


class Diary:
    """What this process was and did, a line each with the time, in a file of its rank."""

    def __init__(self, home: Path) -> None:
        self._path = home / f"diary-{RANK}"
        self.note("alive", os.getpid())

    def note(self, what: str, number: int) -> None:
        """One line more."""
        with self._path.open("a") as file:
            file.write(f"{what} {number} {time.monotonic():.3f}\n")


def leave(home: Path, weights: Any) -> None:
    """The digest of the final weights: the training has come to its end."""
    digest = hashlib.sha256()
    for name in sorted(weights):
        digest.update(weights[name].detach().cpu().numpy().tobytes())
    (home / f"final-{RANK}").write_text(digest.hexdigest())


def rows(count: int, first: int) -> list[dict[str, list[int]]]:
    """Rows of tokens, each another one."""
    tokens = [[(7 * row + 3 * place) % 61 for place in range(12)] for row in range(first, first + count)]
    return [{"input_ids": row, "labels": row} for row in tokens]


def main() -> None:
    """Train to the end, or until somebody else ends it."""
    live(sys.argv[1], Path(sys.argv[2]))


def live(kind: str, home: Path) -> None:
    """One life of the training of this kind."""
    diary = Diary(home)
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM, Trainer, TrainerCallback, TrainingArguments, set_seed
    from transformers.trainer_utils import get_last_checkpoint

    torch.set_num_threads(1)

    class Course(TrainerCallback):
        """Notes the steps, and takes its time."""

        def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            diary.note("begin", state.global_step)

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            diary.note("step", state.global_step)
            time.sleep(PAUSE)

        def pause(self, *_: Any, **__: Any) -> None:
            time.sleep(PAUSE)

        on_step_begin = on_substep_end = on_pre_optimizer_step = on_prediction_step = on_save = pause

    set_seed(7)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_key_value_heads=2, attention_dropout=0.1, **sizes))
    out = home / "run"
    arguments = TrainingArguments(
        os.fspath(out), max_steps=STEPS, save_steps=5, logging_steps=1, eval_strategy="steps", eval_steps=4,
        per_device_train_batch_size=2, per_device_eval_batch_size=2, gradient_accumulation_steps=2, learning_rate=1e-2,
        use_cpu=True, report_to=[], disable_tqdm=True, dataloader_pin_memory=False,
        **({"enable_jit_checkpoint": True} if kind == JIT else {}),
    )  # fmt: skip
    trainer = Trainer(
        model,
        arguments,
        train_dataset=rows(96, 0),
        eval_dataset=rows(16, 96),
        callbacks=[Course()],  # type: ignore[arg-type]
    )
    resume: Any = get_last_checkpoint(os.fspath(out)) if out.is_dir() else None
    if kind == KEEPSTEP:
        import keepstep

        keepstep.attach(trainer)
        resume = "auto"
    trainer.train(resume_from_checkpoint=resume)
    if trainer.state.global_step >= STEPS:
        leave(home, model.state_dict())


if __name__ == "__main__":
    main()
