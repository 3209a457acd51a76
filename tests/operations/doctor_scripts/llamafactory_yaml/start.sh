export CUDA_VISIBLE_DEVICES=0,1
FORCE_TORCHRUN=1 llamafactory-cli train examples/lora_sft.yaml
