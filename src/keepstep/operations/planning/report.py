"""The whole plan of a training's checkpoints: sizes, disk, times, and how often to save."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from keepstep.operations.planning.disk import Kept, Phase, free_bytes, most_kept, phases
from keepstep.operations.planning.intervals import Failures
from keepstep.operations.planning.optimizers import Optimizer
from keepstep.operations.planning.rank_bytes import RankBytes, Sharing, in_all
from keepstep.operations.planning.sharding import of_fsdp
from keepstep.operations.planning.sizes import CheckpointSize, measure
from keepstep.operations.planning.tensors import Inventory
from keepstep.operations.planning.zero import of_zero
from keepstep.operations.simulation.schedule import Schedule
from keepstep.retention import Policy, format_spec


@dataclass(frozen=True, slots=True)
class Question:
    """What is to be planned. Bytes, seconds, bytes per second; None where it is not known.

    `sharing` says how ranks share the state, where each writes a part of it; else rank 0 of `world_size` processes
    writes. `save_cost` is the training time that a save costs; without it, the time of writing one. `notes` are remarks
    on where the question came from.
    """

    inventory: Inventory
    optimizer: Optimizer
    master_weights: bool = False
    weights_only: bool = False
    world_size: int = 1
    sharing: Sharing | None = None
    schedule: Schedule | None = None
    policy: Policy | None = None
    seconds_per_step: float | None = None
    target: Path | None = None
    bandwidth: float | None = None
    save_cost: float | None = None
    mtbf: float | None = None
    restart: float = 0.0
    grace: float | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class DiskUse:
    """What stays at most, the phases of a save, and the bytes of the fullest; `free` at the target."""

    kept: Kept
    phases: tuple[Phase, ...]
    peak: int
    saves: int
    more_saves: int
    written: int
    free: int | None

    @property
    def fits(self) -> bool | None:
        """True when the peak fits into the free space; None when that is not known."""
        return None if self.free is None else self.peak <= self.free


@dataclass(frozen=True, slots=True)
class Grace:
    """Whether a preemption's grace period suffices, in seconds: `needed` to end a step and save, `with_one_in_flight`
    when an earlier save has to end first.
    """

    period: float
    needed: float
    with_one_in_flight: float

    @property
    def enough(self) -> bool:
        """True when a save ends within the period, with no other in flight."""
        return self.needed <= self.period

    @property
    def always_enough(self) -> bool:
        """True when it does even behind a save in flight."""
        return self.with_one_in_flight <= self.period


@dataclass(frozen=True, slots=True)
class Report:
    """The answers to a question; None for what could not be known from it."""

    question: Question
    size: CheckpointSize
    disk: DiskUse | None
    write_seconds: float | None
    failures: Failures | None
    grace: Grace | None
    ranks: tuple[RankBytes, ...] = ()
    """What the ranks write where the model is sharded, neighbours of equal sizes as one."""

    @property
    def interval(self) -> float | None:
        """Seconds of training between two saves, as scheduled."""
        schedule, pace = self.question.schedule, self.question.seconds_per_step
        return schedule.save_every * pace if schedule and pace else None

    def steps(self, seconds: float) -> int | None:
        """So many seconds of training in whole steps, at least 1; None when a step's time is not known."""
        pace = self.question.seconds_per_step
        return max(round(seconds / pace), 1) if pace else None

    def bytes_of(self, kept: Kept) -> int:
        """Bytes of so many checkpoints, whole and thinned."""
        return kept.bytes(self.size.total, self.size.thinned)

    def to_json(self) -> dict[str, Any]:
        """Plain values: bytes, seconds, steps."""
        question = self.question
        return {
            "model": {
                "description": question.inventory.description,
                "parameters": question.inventory.parameters,
                "trained_parameters": question.inventory.trained_parameters,
                "exact": question.inventory.exact,
                "optimizer": question.optimizer.name,
                "master_weights": question.master_weights,
                "world_size": question.world_size,
            },
            "notes": list(question.notes),
            "checkpoint_bytes": {**asdict(self.size), "total": self.size.total},
            "ranks": [{**asdict(one), "total": one.total} for one in self.ranks],
            "disk": None if self.disk is None else self._disk(self.disk),
            "write_seconds": self.write_seconds,
            "interval": None if self.failures is None else self._interval(self.failures),
            "grace": None
            if self.grace is None
            else {**asdict(self.grace), "enough": self.grace.enough, "always_enough": self.grace.always_enough},
        }

    def _disk(self, disk: DiskUse) -> dict[str, Any]:
        policy = self.question.policy
        return {
            "policy": format_spec(policy.rules) if policy else None,
            "kept": disk.kept.count,
            "kept_thinned": disk.kept.thinned,
            "kept_bytes": self.bytes_of(disk.kept),
            "phases": [
                {
                    "phase": phase.name,
                    "checkpoints": phase.checkpoints,
                    "bytes": phase.bytes(self.size.total, self.size.thinned),
                }
                for phase in disk.phases
            ],
            "peak_bytes": disk.peak,
            "free_bytes": disk.free,
            "fits": disk.fits,
            "saves": disk.saves,
            "more_saves_at_most": disk.more_saves,
            "written_bytes": disk.written,
        }

    def _interval(self, failures: Failures) -> dict[str, Any]:
        named = {"young": failures.young(), "daly": failures.daly(), "optimum": failures.optimum()}
        if self.interval is not None:
            named["scheduled"] = self.interval
        return {
            **asdict(failures),
            **{
                name: {"seconds": seconds, "steps": self.steps(seconds), "overhead": failures.overhead(seconds)}
                for name, seconds in named.items()
            },
            "curve": [{"seconds": seconds, "overhead": overhead} for seconds, overhead in failures.curve()],
        }


def answer(question: Question) -> Report:
    """Everything that follows from the question. Raises SettingsError, OSError."""
    schedule = question.schedule
    size = measure(
        question.inventory,
        question.optimizer,
        master_weights=question.master_weights,
        world_size=question.world_size,
        steps=schedule.steps if schedule else 0,
        weights_only=question.weights_only,
    )
    ranks = _ranks(question, size)
    size = in_all(ranks) if ranks else size
    write = size.total / question.bandwidth if question.bandwidth else None
    cost = write if question.save_cost is None else question.save_cost
    failures = None
    if question.mtbf is not None and cost is not None:
        failures = Failures(cost, question.mtbf, question.restart)
    grace = None
    if question.grace is not None and write is not None:
        needed = write + (question.seconds_per_step or 0)
        grace = Grace(question.grace, needed, needed + write)
    return Report(question, size, _disk_use(question, size), write, failures, grace, ranks)


def _ranks(question: Question, whole: CheckpointSize) -> tuple[RankBytes, ...]:
    """What each rank writes; empty where the state is not shared."""
    inventory, optimizer, sharing = question.inventory, question.optimizer, question.sharing
    if sharing is None:
        return ()
    if sharing.by == "fsdp":
        return of_fsdp(inventory, optimizer, whole, sharing, master_weights=question.master_weights)
    return of_zero(inventory, optimizer, whole, sharing)


def _disk_use(question: Question, size: CheckpointSize) -> DiskUse | None:
    schedule, policy = question.schedule, question.policy
    if schedule is None or policy is None:
        return None
    more = schedule.between_saves if policy.metric else 0
    saves = len(schedule.saves)
    kept = most_kept(policy, schedule, question.seconds_per_step)
    steps = phases(kept, saves + more)
    peak = max(phase.bytes(size.total, size.thinned) for phase in steps)
    free = None if question.target is None else free_bytes(question.target)
    return DiskUse(kept, steps, peak, saves, more, (saves + more) * size.total, free)
