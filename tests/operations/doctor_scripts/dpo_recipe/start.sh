#!/bin/sh
accelerate launch dpo.py --config recipes/dpo.yaml --save_steps 50 --bf16
