"""One process of the demonstration: trains, or writes sample sentences; reports in JSON lines."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from keepstep.demo.recipe import Recipe
from keepstep.run import read_note
from keepstep.stores import LocalStore

KEPT = 3
SAMPLE_TOKENS = 36
MIRROR_PATIENCE = 120.0
"""Seconds that the mirror may take to have something."""


@dataclass(frozen=True, slots=True)
class Job:
    """What a worker is to do. `kill_at` names the step in whose save the process kills itself with SIGKILL, once
    something is in the `mirror` where it has one.
    """

    task: str
    model: str
    data: str
    run: str
    recipe: dict[str, Any]
    kill_at: int | None = None
    samples: dict[str, str] = field(default_factory=dict[str, str])
    mirror: str | None = None


class Reporter:
    """Writes JSON lines to the pipe that the director reads."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def say(self, event: str, **fields: Any) -> None:
        """One event, at once."""
        self._stream.write(json.dumps({"event": event, **fields}) + "\n")
        self._stream.flush()


def main() -> None:
    """Entry of `python -m keepstep.demo.worker JOB`; events go to the file descriptor in KEEPSTEP_DEMO_EVENTS."""
    job = Job(**json.loads(sys.argv[1]))
    reporter = Reporter(os.fdopen(int(os.environ["KEEPSTEP_DEMO_EVENTS"]), "w", encoding="utf-8"))
    import torch
    from transformers.utils import logging

    torch.set_num_threads(1)
    logging.set_verbosity_error()
    if job.task == "train":
        _train(job, reporter)
    else:
        _sample(job, reporter)


def _train(job: Job, reporter: Reporter) -> None:
    import keepstep

    trainer = make_trainer(job, reporter)
    ckpt = keepstep.attach(trainer, mirror=job.mirror)
    if job.kill_at is not None:
        _die_inside_save(job, job.kill_at, reporter)
    reporter.say("ready", steps=Recipe(**job.recipe).steps)
    trainer.train(resume_from_checkpoint="auto")
    receipt = ckpt.receipt
    reporter.say("done", receipt=receipt.lines() if receipt else [], level=receipt.level.value if receipt else None)


def make_trainer(job: Job, reporter: Reporter) -> Any:
    """A stock SFTTrainer with LoRA on rows cut from the text; it reports losses through a callback."""
    import torch
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
    from trl import SFTConfig, SFTTrainer  # pyright: ignore[reportPrivateImportUsage]

    recipe = Recipe(**job.recipe)
    set_seed(recipe.seed)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    train, evaluation = _rows(tokenizer, Path(job.data), recipe)
    targets = recipe.target_modules
    args = SFTConfig(
        output_dir=job.run,
        num_train_epochs=recipe.epochs,
        per_device_train_batch_size=recipe.batch_size,
        per_device_eval_batch_size=32,
        learning_rate=recipe.learning_rate,
        lr_scheduler_type="constant",
        eval_strategy="steps",
        eval_steps=recipe.eval_every_steps,
        save_strategy="steps",
        save_steps=recipe.eval_every_steps,
        save_total_limit=KEPT,
        metric_for_best_model="eval_loss",
        logging_steps=recipe.eval_every_steps,
        max_length=recipe.tokens_per_row,
        seed=recipe.seed,
        report_to=[],
        disable_tqdm=True,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
    )
    return SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32),
        args=args,
        train_dataset=train,
        eval_dataset=evaluation,
        processing_class=tokenizer,
        callbacks=[_progress_callback(reporter)],
        peft_config=LoraConfig(
            r=recipe.lora_rank,
            lora_alpha=recipe.lora_alpha,
            lora_dropout=recipe.lora_dropout,
            target_modules=targets if isinstance(targets, str) else list(targets),
            task_type="CAUSAL_LM",
        ),
    )


def _rows(tokenizer: Any, text: Path, recipe: Recipe) -> tuple[Any, Any]:
    from datasets import Dataset

    size, wanted = recipe.tokens_per_row, recipe.rows + recipe.eval_rows
    tokens = tokenizer(text.read_text(encoding="utf-8", errors="replace"), add_special_tokens=False).input_ids
    rows = [tokens[start : start + size] for start in range(0, len(tokens) - size + 1, size)][:wanted]
    if len(rows) < wanted:
        raise SystemExit(f"{text} is too short: {len(rows)} rows of {size} tokens, the demonstration takes {wanted}")
    return (
        Dataset.from_dict({"input_ids": rows[: recipe.rows]}),
        Dataset.from_dict({"input_ids": rows[recipe.rows :]}),
    )


def _progress_callback(reporter: Reporter) -> Any:
    from transformers import TrainerCallback

    class Progress(TrainerCallback):
        """Reports each step and each evaluation."""

        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            reporter.say("step", step=state.global_step)

        def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
            reporter.say("eval", step=state.global_step, loss=kwargs["metrics"]["eval_loss"])

    return Progress()


def _wait_for_mirror(run: Path) -> None:
    """Return when something that can be resumed from is in the mirror."""
    end = time.monotonic() + MIRROR_PATIENCE
    while time.monotonic() < end:
        note = read_note(LocalStore(run))
        if note is not None and note.newest is not None:
            return
        time.sleep(0.05)


def _die_inside_save(job: Job, step: int, reporter: Reporter) -> None:
    """SIGKILL this process when half of the optimizer's bytes of step `step` are on the disk."""
    from keepstep.formats.sink import FileSink

    finish = FileSink.finish

    def die_or_finish(self: FileSink) -> None:
        if self.path.name != "optimizer.pt" or self.path.parent.name != f"checkpoint-{step}":
            finish(self)
            return
        whole = self.path.stat().st_size
        os.truncate(self.path, whole // 2)
        if job.mirror is not None:
            _wait_for_mirror(Path(job.run))
        reporter.say("killed", step=step, file=self.path.name, written=whole // 2, of=whole)
        os.kill(os.getpid(), signal.SIGKILL)

    FileSink.finish = die_or_finish


def _sample(job: Job, reporter: Reporter) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    recipe = Recipe(**job.recipe)
    tokenizer = AutoTokenizer.from_pretrained(job.model)
    prompt = tokenizer(recipe.prompt, return_tensors="pt", add_special_tokens=False)
    for name, adapter in job.samples.items():
        base = AutoModelForCausalLM.from_pretrained(job.model, dtype=torch.float32)
        model = PeftModel.from_pretrained(base, adapter).eval()
        torch.manual_seed(recipe.seed)
        tokens = model.generate(
            input_ids=prompt.input_ids,
            attention_mask=prompt.attention_mask,
            do_sample=True,
            temperature=0.7,
            top_k=50,
            max_new_tokens=SAMPLE_TOKENS,
            pad_token_id=tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id,
        )
        reporter.say("sample", name=name, text=tokenizer.decode(tokens[0], skip_special_tokens=True))


if __name__ == "__main__":
    main()
