#!/bin/bash
cd "$(dirname "$0")"
for seed in 1 2 3; do
    python src/train.py training.save_total_limit=1 training.seed=$seed hydra.run.dir=outputs/$seed
done
