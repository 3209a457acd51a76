from pathlib import Path

import click
from transformers import AutoModelForTokenClassification, Trainer, TrainingArguments


def get_training_kwargs(output_dir, epochs, fast):
    kwargs = dict(
        output_dir=str(output_dir),
        num_train_epochs=epochs,
        save_strategy="epoch",
        eval_strategy="epoch",
        logging_dir=str(output_dir / "logs"),
    )
    if fast:
        kwargs["fp16"] = True
        kwargs.update(dataloader_num_workers=8, group_by_length=True)
    return kwargs


@click.command()
@click.argument("data", type=click.Path(exists=True, path_type=Path))
@click.option("--output-dir", "-o", type=click.Path(path_type=Path), default="models/ner")
@click.option("--epochs", default=4, show_default=True)
@click.option("--metric", "best_metric", default="cer")
@click.option("--fast/--no-fast", default=True)
def main(data, output_dir, epochs, best_metric, fast):
    kwargs = get_training_kwargs(output_dir, epochs, fast)
    kwargs["load_best_model_at_end"] = True
    kwargs.update({"metric_for_best_model": best_metric})
    args = TrainingArguments(**kwargs)
    model = AutoModelForTokenClassification.from_pretrained("bert-base-cased", num_labels=9)
    trainer = Trainer(model=model, args=args, train_dataset=None, eval_dataset=None)
    trainer.train()


if __name__ == "__main__":
    main()
