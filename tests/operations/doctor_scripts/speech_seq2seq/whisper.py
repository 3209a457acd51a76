from transformers import Seq2SeqTrainer, Seq2SeqTrainingArguments, WhisperForConditionalGeneration, WhisperProcessor

from prepare import collator, common_voice, compute_metrics

model_id = "openai/whisper-small"
language = "hi"
repo_name = f"whisper-small-{language}"

processor = WhisperProcessor.from_pretrained(model_id, language="Hindi", task="transcribe")
model = WhisperForConditionalGeneration.from_pretrained(model_id)
model.generation_config.language = "hindi"

training_args = Seq2SeqTrainingArguments(
    output_dir=f"./{repo_name}",  # change to a repo name of your choice
    per_device_train_batch_size=16,
    gradient_accumulation_steps=1,  # increase by 2x for every 2x decrease in batch size
    learning_rate=1e-5,
    warmup_steps=500,
    max_steps=5_000,
    gradient_checkpointing=True,
    fp16=True,
    evaluation_strategy="steps",
    per_device_eval_batch_size=8,
    predict_with_generate=True,
    generation_max_length=225,
    save_steps=1000,
    eval_steps=1000,
    logging_steps=25,
    report_to=["tensorboard"],
    load_best_model_at_end=True,
    metric_for_best_model="wer",
    push_to_hub=True,
    hub_token="hf_abcdefghijklmnopqrstuvwx",
)

trainer = Seq2SeqTrainer(
    args=training_args,
    model=model,
    train_dataset=common_voice["train"],
    eval_dataset=common_voice["test"],
    data_collator=collator,
    compute_metrics=compute_metrics,
    tokenizer=processor.feature_extractor,
)
processor.save_pretrained(training_args.output_dir)
trainer.train()
trainer.push_to_hub(dataset_tags="mozilla-foundation/common_voice_11_0")
