"""The textbook program: fine-tune with LoRA, keep the best 2, then resume from the best one for another epoch.

keepstep demo --script sft_lora > sft_lora.py
python sft_lora.py --model PATH_OR_HUB_NAME --data TEXT_FILE --output runs/textbook
"""

import argparse
from pathlib import Path

from datasets import Dataset
from peft import LoraConfig
from transformers import AutoTokenizer
from trl import SFTConfig, SFTTrainer

import keepstep

WORDS_PER_ROW = 40


def rows(path: Path, count: int) -> Dataset:
    """The first `count` pieces of a text, of 40 words each."""
    words = path.read_text(encoding="utf-8").split()
    pieces = [" ".join(words[i : i + WORDS_PER_ROW]) for i in range(0, len(words), WORDS_PER_ROW)]
    return Dataset.from_dict({"text": pieces[:count]})


def make_trainer(model: str, data: Path, output: Path, epochs: int) -> SFTTrainer:
    """A stock SFTTrainer; nothing in it knows of keepstep."""
    split = rows(data, 60).train_test_split(test_size=12, seed=0)
    args = SFTConfig(
        output_dir=str(output),
        num_train_epochs=epochs,
        per_device_train_batch_size=8,
        learning_rate=1e-3,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=False,
        max_length=128,
        logging_steps=2,
        report_to=[],
        bf16=False,
        model_init_kwargs={"dtype": "float32"},
    )
    return SFTTrainer(
        model=model,
        args=args,
        train_dataset=split["train"],
        eval_dataset=split["test"],
        processing_class=AutoTokenizer.from_pretrained(model),
        peft_config=LoraConfig(r=8, lora_alpha=16, lora_dropout=0.05, task_type="CAUSAL_LM"),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="a causal language model: a directory or a hub name")
    parser.add_argument("--data", required=True, type=Path, help="a text file to fine-tune on")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/textbook"), help="run directory (default: %(default)s)"
    )
    options = parser.parse_args()

    trainer = make_trainer(options.model, options.data, options.output, epochs=2)
    ckpt = keepstep.attach(trainer)
    trainer.train(resume_from_checkpoint="auto")

    print("checkpoints on disk:", ", ".join(checkpoint.name for checkpoint in ckpt.run.checkpoints))
    best = ckpt.run.best
    assert best is not None
    print(f"best: {best.path} (eval_loss {best.metrics['eval_loss']:.4f})")

    again = make_trainer(options.model, options.data, options.output, epochs=3)
    ckpt = keepstep.attach(again)
    again.train(resume_from_checkpoint="best")
    assert ckpt.receipt is not None
    print(f"resumed from step {ckpt.receipt.step}; now at step {again.state.global_step}")
    print(ckpt.receipt)


if __name__ == "__main__":
    main()
