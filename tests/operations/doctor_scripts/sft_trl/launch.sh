#!/usr/bin/env bash
set -euo pipefail

MODEL="Qwen/Qwen2-0.5B"
OUT="${OUT:-checkpoints/qwen-sft}"

accelerate launch --config_file accelerate/zero2.yaml --num_processes 4 \
    sft.py \
    --model_name_or_path $MODEL \
    --dataset_name trl-lib/Capybara \
    --learning_rate 2.0e-5 \
    --num_train_epochs 1 \
    --packing \
    --per_device_train_batch_size 2 \
    --gradient_accumulation_steps 8 \
    --eos_token '<|im_end|>' \
    --eval_strategy steps \
    --eval_steps 200 \
    --save_steps 300 \
    --load_best_model_at_end \
    --output_dir "$OUT" \
    --push_to_hub
