import argparse
import os
from dataclasses import dataclass, field
from os.path import exists, isdir, join
from typing import Optional

import torch
import transformers
from transformers import AutoModelForCausalLM, Seq2SeqTrainer, set_seed


@dataclass
class ModelArguments:
    model_name_or_path: Optional[str] = field(default="EleutherAI/pythia-12b")
    trust_remote_code: Optional[bool] = field(default=False)


@dataclass
class DataArguments:
    eval_dataset_size: int = field(default=1024)
    max_train_samples: Optional[int] = field(default=None)
    dataset: str = field(default="alpaca")


@dataclass
class TrainingArguments(transformers.Seq2SeqTrainingArguments):
    cache_dir: Optional[str] = field(default=None)
    full_finetune: bool = field(default=False)
    bits: int = field(default=4)
    lora_r: int = field(default=64)
    report_to: str = field(default="none")
    output_dir: str = field(default="./output")
    optim: str = field(default="paged_adamw_32bit")
    per_device_train_batch_size: int = field(default=1)
    gradient_accumulation_steps: int = field(default=16)
    max_steps: int = field(default=10000)
    learning_rate: float = field(default=0.0002)
    do_train: bool = field(default=True)
    logging_steps: int = field(default=10)
    save_strategy: str = field(default="steps")
    save_steps: int = field(default=250)
    save_total_limit: int = field(default=40)


@dataclass
class GenerationArguments:
    max_new_tokens: Optional[int] = field(default=256)


class SavePeftModelCallback(transformers.TrainerCallback):
    def save_model(self, args, state, kwargs):
        folder = os.path.join(args.output_dir, f"checkpoint-{state.global_step}")
        kwargs["model"].save_pretrained(os.path.join(folder, "adapter_model"))

    def on_save(self, args, state, control, **kwargs):
        self.save_model(args, state, kwargs)
        return control


def get_last_checkpoint(checkpoint_dir):
    if isdir(checkpoint_dir):
        if exists(join(checkpoint_dir, "completed")):
            return None, True
        max_step = 0
        for filename in os.listdir(checkpoint_dir):
            if isdir(join(checkpoint_dir, filename)) and filename.startswith("checkpoint"):
                max_step = max(max_step, int(filename.replace("checkpoint-", "")))
        if max_step == 0:
            return None, False
        return join(checkpoint_dir, f"checkpoint-{max_step}"), False
    return None, False


def train():
    hfparser = transformers.HfArgumentParser((ModelArguments, DataArguments, TrainingArguments, GenerationArguments))
    model_args, data_args, training_args, generation_args, extra_args = hfparser.parse_args_into_dataclasses(
        return_remaining_strings=True
    )
    training_args.generation_config = transformers.GenerationConfig(**vars(generation_args))
    args = argparse.Namespace(**vars(model_args), **vars(data_args), **vars(training_args))

    checkpoint_dir, completed_training = get_last_checkpoint(args.output_dir)
    if completed_training:
        print("Detected that training was already completed!")

    model = AutoModelForCausalLM.from_pretrained(args.model_name_or_path, torch_dtype=torch.bfloat16)
    set_seed(args.seed)
    trainer = Seq2SeqTrainer(model=model, args=training_args)
    if not args.full_finetune:
        trainer.add_callback(SavePeftModelCallback)
    if args.do_train:
        train_result = trainer.train(resume_from_checkpoint=checkpoint_dir)
        trainer.log_metrics("train", train_result.metrics)
        trainer.save_state()


if __name__ == "__main__":
    train()
