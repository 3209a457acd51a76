import hydra
from omegaconf import DictConfig, OmegaConf
from transformers import AutoModelForSequenceClassification, EarlyStoppingCallback, Trainer, TrainingArguments

from data import load


@hydra.main(version_base="1.3", config_path="../conf", config_name="config")
def main(cfg: DictConfig) -> None:
    print(OmegaConf.to_yaml(cfg))
    train, dev = load(cfg.data)
    model = AutoModelForSequenceClassification.from_pretrained(cfg.model.name)
    args = TrainingArguments(**OmegaConf.to_container(cfg.training, resolve=True))
    trainer = Trainer(
        model=model,
        args=args,
        train_dataset=train,
        eval_dataset=dev,
        callbacks=[EarlyStoppingCallback(cfg.patience)],
    )
    trainer.train(resume_from_checkpoint=cfg.get("resume", None))


if __name__ == "__main__":
    main()
