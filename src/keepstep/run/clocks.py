"""Names of logged values that a clock or the machine makes, not the training: two equal courses differ in them."""

from __future__ import annotations

import re
from fnmatch import translate
from functools import lru_cache

TIMES = (
    *("*runtime*", "time", "time/*", "*/time", "*_time", "timing/*", "*time taken*", "*_elapsed", "elapsed*"),
    *("*_seconds", "*_secs", "*_sec", "*_ms", "*duration", "*latency", "*timestamp*"),
)
"""Of the Trainer `train_runtime`, `eval_model_preparation_time`; of TRL `step_time`, `profiling/Time taken: …`."""
SPEEDS = (
    *("*per_sec*", "*per_s", "*/sec*", "*/s", "*/s)", "*tok_s*", "tps", "*_tps", "*/tps", "*throughput*"),
    *("*_speed", "*_speed(*", "*mfu*", "*flops*", "perf/*", "profiling/*", "*queue*", "sample/staleness*"),
)
"""Of the Trainer `eval_samples_per_second`; of TRL `perf/mfu_wall_clock`, and the queues of rollouts."""
MEMORY = ("*memory*", "mem", "mem_*", "mem/*", "*_mem", "*_mem_*", "*/mem", "*/mem_*", "*gpu*", "*cpu*", "*vram*")
"""Of the Trainer `train_mem_gpu_peaked_delta`, `before_init_mem_cpu`; of Axolotl `memory/max_active (GiB)`."""

_PATTERN = re.compile("|".join(f"(?:{translate(pattern)})" for pattern in (*TIMES, *SPEEDS, *MEMORY)))


@lru_cache(maxsize=4096)
def of_the_machine(name: str) -> bool:
    """True for the name of a value that a clock or the machine makes; capitals are of no account."""
    return _PATTERN.match(name.lower()) is not None
