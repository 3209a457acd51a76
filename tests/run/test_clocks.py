"""What a clock or the machine makes is known by its name, as libraries call it; the training's own values are not."""

from __future__ import annotations

import pytest

from keepstep.run.clocks import of_the_machine

TRAINER = """
    train_runtime train_samples_per_second train_steps_per_second train_tokens_per_second eval_runtime
    eval_samples_per_second eval_steps_per_second eval_model_preparation_time before_init_mem_cpu before_init_mem_gpu
    train_mem_cpu_alloc_delta train_mem_cpu_peaked_delta eval_mem_gpu_alloc_delta init_mem_gpu_peaked_delta
"""
TRL = (
    *("step_time", "eval_step_time", "profiling/Time taken: GRPOTrainer.vLLM.generate", "perf/fwd_bwd_s"),
    *("perf/mfu_wall_clock", "perf/forwarded_tok_s_fwd_bwd", "perf/weight_sync_transfer_s", "perf/rollout_wait_s"),
    *("sample/rollout_queue_size", "sample/time_in_queue_s", "sample/staleness_max", "sample/staleness_mean"),
)
OTHERS = (
    *("memory/max_active (GiB)", "memory(GiB)", "tokens/train_per_sec_per_gpu", "tokens_per_sec", "throughput"),
    *("elapsed_time", "remaining_time", "train_speed(iter/s)", "gpu_utilization", "mfu", "tflops", "it/s", "GPU temp"),
    *("time", "epoch_time", "time/forward", "eval/latency", "max_memory_allocated", "peak_mem", "forward_ms"),
)
TRAINING = """
    loss grad_norm learning_rate epoch eval_loss eval_accuracy eval_f1 entropy num_tokens mean_token_accuracy
    num_input_tokens_seen total_flos train_loss reward reward_std kl rewards/chosen rewards/margins logps/rejected
    logits/chosen frac_reward_zero_std completions/mean_length completions/clipped_ratio clip_ratio/low_mean
    sampling/sampling_logp_difference/mean aux_loss eval_rouge1 eval_bleu perplexity temperature policy/approxkl_avg
    val/ratio objective/scores duration_loss members memorization_loss sometimes timestep steps eval_recall@5
"""


@pytest.mark.parametrize("name", [*TRAINER.split(), *TRL, *OTHERS])
def test_what_the_machine_makes(name: str) -> None:
    assert of_the_machine(name)


@pytest.mark.parametrize("name", TRAINING.split())
def test_what_the_training_makes(name: str) -> None:
    assert not of_the_machine(name)
