import gc
from pathlib import Path

import torch
from sklearn.model_selection import StratifiedKFold
from transformers import AutoModelForSequenceClassification, Trainer, TrainingArguments


class CFG:
    model_name = "microsoft/deberta-v3-base"
    epochs = 4
    lr = 2e-5
    n_folds = 5
    output = Path("/data/folds")
    limit = 1


def get_args(fold, debug=False):
    steps = 20 if debug else 200
    return TrainingArguments(
        output_dir=str(CFG.output / f"fold{fold}"),
        learning_rate=CFG.lr,
        num_train_epochs=CFG.epochs,
        evaluation_strategy="steps",
        eval_steps=steps,
        save_steps=steps,
        save_total_limit=CFG.limit,
        report_to="none",
    )


def run(df):
    for fold, (train_idx, valid_idx) in enumerate(StratifiedKFold(CFG.n_folds).split(df, df["label"])):
        model = AutoModelForSequenceClassification.from_pretrained(CFG.model_name)
        trainer = Trainer(model=model, args=get_args(fold), train_dataset=df.iloc[train_idx], eval_dataset=df.iloc[valid_idx])
        trainer.train()
        del model, trainer
        gc.collect()
        torch.cuda.empty_cache()
