import argparse

import keepstep
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

parser = argparse.ArgumentParser()
parser.add_argument("--steps", type=int, default=1000)
parser.add_argument("--resume", default="auto")
args = parser.parse_args()

training = TrainingArguments(
    output_dir="runs/managed",
    max_steps=args.steps,
    eval_strategy="steps",
    eval_steps=args.steps // 10,
    save_steps=args.steps // 10,
    metric_for_best_model="eval_loss",
    save_total_limit=3,
)
trainer = Trainer(model=AutoModelForCausalLM.from_pretrained("gpt2"), args=training)
keepstep.attach(trainer, keep="best:3,latest:2")
trainer.train(resume_from_checkpoint=args.resume)
