import argparse
import os

import yaml
from datasets import load_dataset
from trl import GRPOConfig, GRPOTrainer


def load_config(path):
    with open(path, "r", encoding="utf-8") as handle:
        return yaml.safe_load(handle)


def length_reward(completions, **kwargs):
    return [-abs(20 - len(completion)) for completion in completions]


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("-c", "--config", default="config.yaml", help="which experiment")
    ap.add_argument("--debug", action="store_true")
    opts = ap.parse_args()

    config = load_config(opts.config)
    train_cfg = config["training"]
    if opts.debug:
        train_cfg["max_steps"] = 5
    os.environ.setdefault("WANDB_PROJECT", config.get("project", "grpo"))
    training_args = GRPOConfig(bf16=True, **train_cfg)
    trainer = GRPOTrainer(
        model=config["model"]["name"],
        reward_funcs=length_reward,
        args=training_args,
        train_dataset=load_dataset(config["data"]["name"], split="train"),
    )
    trainer.train()


if __name__ == "__main__":
    main()
