"""How often to save: against failures, against the cost of saving, and against a preemption's grace period."""

from __future__ import annotations

from keepstep.operations.doctor.facts import DEFAULT_BANDWIDTH, Facts
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import ANYWHERE, FILES, JOB, TRAINER, rule
from keepstep.operations.planning.intervals import Failures
from keepstep.units import format_duration, format_size

DOMINATES = 0.1
"""The part of the time above which saving is too much."""


@rule(
    "W501",
    "failures come more often than saves",
    why="Between two failures nothing new is saved: the training repeats the same steps and gets nowhere.",
    fix="Save more often.",
)
def longer_than_between_failures(facts: Facts) -> Found | None:
    """The time between two saves is longer than the usual time between two failures (`--mtbf`; 24 h by default)."""
    every = facts.steps_between_saves
    if facts.clock is None and every is not None and (facts.total_steps or every) < every:
        return None
    if facts.clock is not None and facts.clock <= facts.pace.mtbf:
        return None  # whatever a step takes
    interval = facts.interval
    if interval is None or interval <= facts.pace.mtbf:
        return None
    assumed = "" if facts.pace.mtbf_given else " (assumed; --mtbf)"
    what = f"a save every {format_duration(interval)}, a failure every {format_duration(facts.pace.mtbf)}{assumed}"
    return Found(what, ("save_steps",), _by_clock(facts) or _advice(facts))


@rule(
    "W502",
    "saving takes more time than it is worth",
    why="The stock Trainer stands still while it saves. keepstep writes in the background, but one save can't begin "
    "before the last has ended.",
    fix="Save less often.",
)
def saving_dominates(facts: Facts) -> Found | None:
    """Saves take more than a tenth of the time; with keepstep, longer than the time between them."""
    interval = facts.interval
    if interval is None:
        return None
    cost = facts.pace.save_seconds
    part = cost / (interval + cost)
    if part <= DOMINATES or (facts.attached and cost <= interval):
        return None
    what = (
        f"a save of {_size(facts)} takes {format_duration(cost)}{_assumed(facts)}, and comes every "
        f"{format_duration(interval)} of training: {part:.0%} of the time"
    )
    return Found(what, ("save_steps",), _by_clock(facts) or _advice(facts))


@rule(
    "E503",
    "the grace period is shorter than a save",
    why="The process is killed in the middle of the save that was to rescue it; only older checkpoints are left.",
    fix="Ask for more: #SBATCH --signal=B:TERM@300, or terminationGracePeriodSeconds: 300; or make "
    "the checkpoint smaller (LoRA, an 8-bit optimizer).",
    sources=ANYWHERE | {JOB},
)
def grace_too_short(facts: Facts) -> Found | None:
    """Ending a step and writing a checkpoint takes longer than a preemption leaves: `--grace`, or what a job file says
    that is examined too, or 30 s under SLURM and Kubernetes.
    """
    pace = facts.pace
    if pace.grace is None or (facts.source != JOB and not facts.saves):
        return None
    needed = pace.save_seconds + (pace.step_seconds or 0)
    if needed <= pace.grace:
        return None
    by = f" of {pace.scheduler}" if pace.scheduler else ""
    what = (
        f"the grace period{by} is {format_duration(pace.grace)}, and to end a step and save {_size(facts)} takes "
        f"{format_duration(needed)}{_assumed(facts)}"
    )
    line = facts.job.line if facts.job and facts.source == JOB else 0
    return Found(what, ("save_steps",), where=facts.at(line) if line else None)


@rule(
    "W504",
    "the signal does not reach the training",
    why="sbatch --signal goes to the steps that srun starts, or with B: to the batch shell alone. A training that "
    "never gets it saves nothing, and is killed at the end of the time limit.",
    fix="Start the training with srun; or with --signal=B:TERM@300 and `exec python train.py` as the last line.",
    sources=frozenset({JOB}),
)
def signal_is_not_heard(facts: Facts) -> Found | None:
    """`#SBATCH --signal` in a script that starts the training without srun, or with `B:` without trap and exec."""
    job = facts.job
    if job is None or not job.unheard:
        return None
    return Found(f"{job.said}: {job.unheard}", where=job.at(job.line))


@rule(
    "W507",
    "the signal ends torchrun, and not the training",
    why="torchrun knows SIGTERM, SIGINT, SIGHUP and SIGQUIT. Of any other one it dies at once: nobody tells its "
    "workers, which hold their GPUs and the run until the job is killed.",
    fix="Have it hand the signal on: torchrun --signals-to-handle SIGTERM,SIGINT,SIGHUP,SIGQUIT,SIGUSR1,SIGUSR2; or "
    "send TERM: #SBATCH --signal=TERM@300.",
    sources=frozenset({JOB}),
)
def signal_ends_the_launcher(facts: Facts) -> Found | None:
    """`#SBATCH --signal=USR1@…` or USR2 that reaches a torchrun without `--signals-to-handle`, below no `keepstep
    run`.
    """
    job = facts.job
    if job is None or not job.kills:
        return None
    return Found(f"{job.said}: {job.kills}", where=job.at(job.line))


@rule(
    "E505",
    "a job that starts anew, and a training that does not resume",
    why="After a preemption the stock Trainer begins at step 0 and removes the old checkpoints as its limit is "
    "reached; keepstep refuses such a start, and every further one fails.",
    fix='Resume: trainer.train(resume_from_checkpoint="auto") with keepstep, and with the stock Trainer True where '
    "there is a checkpoint.",
    sources=FILES,
)
def starts_anew(facts: Facts) -> Found | None:
    """`#SBATCH --requeue` in the job file, and `train()` is not told to resume."""
    job = facts.job
    if job is None or not job.restarts or not facts.resume or facts.resumes:
        return None
    return Found(f"{job.at(job.restarts_line)} says {job.restarts}, and train() is not told to resume")


@rule(
    "W506",
    "the time limit comes before the first save",
    why="The job ends with nothing saved, and so does every further one.",
    fix="Save more often, or ask for more time.",
    sources=ANYWHERE - {TRAINER},
)
def ends_before_a_save(facts: Facts) -> Found | None:
    """`#SBATCH --time` is shorter than the time between two saves."""
    job = facts.job
    if job is None or job.limit is None or (facts.clock or job.limit) < job.limit:
        return None
    interval = facts.interval
    if interval is None or interval <= job.limit:
        return None
    what = f"a save every {format_duration(interval)}, and {job.at(job.limit_line)} limits the job to "
    return Found(what + format_duration(job.limit), ("save_steps",))


def _by_clock(facts: Facts) -> str:
    """The same for what is saved by the clock before its steps are due."""
    if facts.clock is None or facts.clock != facts.interval:
        return ""
    if facts.pace.checkpoint_bytes is None:
        return f'Set save_every to "{format_duration(facts.pace.mtbf / 10)}" or less.'
    failures = Failures(facts.pace.save_seconds, facts.pace.mtbf)
    best = failures.optimum()
    return f"Set save_every to about {format_duration(best)}: there the least is lost, {failures.overhead(best):.1%}."


def _advice(facts: Facts) -> str:
    """The interval that loses the least time, in steps, where the cost of a save is known."""
    if facts.pace.checkpoint_bytes is None:
        return f"Save at least every {max(int(facts.pace.mtbf / 10 / facts.pace.step), 1):,} steps."
    failures = Failures(facts.pace.save_seconds, facts.pace.mtbf)
    steps = max(round(failures.optimum() / facts.pace.step), 1)
    lost = failures.overhead(failures.optimum())
    return f"Set save_steps to about {steps:,}: there the least time is lost, {lost:.1%}."


def _size(facts: Facts) -> str:
    return format_size(facts.pace.checkpoint_bytes or 0)


def _assumed(facts: Facts) -> str:
    rate = facts.pace.bandwidth
    return f" (at {format_size(int(rate))}/s, assumed; --bandwidth)" if rate == DEFAULT_BANDWIDTH else ""
