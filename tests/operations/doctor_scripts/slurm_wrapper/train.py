import argparse

from datasets import load_dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import SFTConfig, SFTTrainer


def parse_args():
    parser = argparse.ArgumentParser(formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--model", "-m", required=True)
    parser.add_argument("--output-dir", type=str, required=True)
    parser.add_argument("--epochs", type=float, default=1.0)
    training = parser.add_argument_group("training")
    training.add_argument("--lr", type=float, default=1e-5)
    training.add_argument("--save-steps", type=int, default=1000)
    training.add_argument("--keep", type=int, default=None)
    training.add_argument("--eval", action="store_true")
    args = parser.parse_args()
    if args.epochs <= 0:
        parser.error("--epochs must be positive")
    return args


def main() -> None:
    args = parse_args()
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    model = AutoModelForCausalLM.from_pretrained(args.model, torch_dtype="bfloat16")
    data = load_dataset("trl-lib/tldr")
    config = SFTConfig(
        output_dir=args.output_dir,
        num_train_epochs=args.epochs,
        learning_rate=args.lr,
        save_strategy="steps",
        save_steps=args.save_steps,
        save_total_limit=args.keep,
        eval_strategy="epoch" if args.eval else "no",
        bf16=True,
    )
    trainer = SFTTrainer(model=model, args=config, train_dataset=data["train"], processing_class=tokenizer)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
