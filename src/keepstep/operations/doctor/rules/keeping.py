"""What is kept: whether a resume point stays, whether there is a second one, whether anything ever goes."""

from __future__ import annotations

from keepstep.operations.doctor.facts import Facts
from keepstep.operations.doctor.found import Found
from keepstep.operations.doctor.rules.writing import ANYWHERE, RUN, TRAINER, rule
from keepstep.operations.doctor.settings import NotKnown
from keepstep.retention import All, Best, Latest, Pinned, Policy, format_spec
from keepstep.units import format_size


@rule(
    "W201",
    "nothing limits what is kept",
    why="Every save stays until the disk is full, and a full disk ends the stock training, with the newest checkpoint "
    "half written.",
    fix="Set save_total_limit.",
    solved="the oldest go, by a fixed order, when room is short",
)
def no_limit(facts: Facts) -> Found | None:
    """No `save_total_limit`: all checkpoints stay."""
    if not facts.saves or facts.settings.limit is not None:
        return None
    return Found(f"no save_total_limit: every checkpoint stays{_until_the_end(facts)}", ("save_total_limit",))


@rule(
    "I202",
    "nothing limits what is kept but the disk",
    why="The run takes all the room that there is before anything goes, from whatever else lives on that disk.",
    fix='Say what to keep, or how much: attach(trainer, keep="best:3,latest:2") or budget="200GB".',
    sources=ANYWHERE - {RUN},  # it does not remember a budget
)
def no_limit_attached(facts: Facts) -> Found | None:
    """No limit, `keep` or `budget` is given: all checkpoints stay while there is room."""
    if not facts.attached or facts.value(facts.budget, "budget") or not facts.saves:
        return None
    if not any(isinstance(rule, All) for rule in facts.known_policy.rules):
        return None
    return Found(f"everything is kept while there is room{_until_the_end(facts)}", ("save_total_limit",))


@rule(
    "W203",
    "the limit removes the last checkpoint at the end",
    why="With save_total_limit=1 and a metric, the stock Trainer ends by deleting every checkpoint but the best, the "
    "last one too: what was trained since the best is lost, and can't be gone on from.",
    fix="Set save_total_limit=2.",
    solved="the newest that can be resumed from always stays",
)
def limit_of_one(facts: Facts) -> Found | None:
    """`save_total_limit=1` with a metric keeps the best alone."""
    if facts.settings.limit != 1 or not facts.saves or not facts.ranks or not facts.evaluates:
        return None
    return Found("save_total_limit=1 with a metric: at the end only the best stays", ("save_total_limit",))


@rule(
    "W204",
    "only one checkpoint can be resumed from",
    why="Where its bytes turn out damaged when they are needed, nothing whole is left to resume from; checkpoints that "
    "stay for their metric alone are thinned to weights, and can't serve.",
    fix='Keep two: keep="best:3,latest:2", or save_total_limit=2.',
    sources=ANYWHERE,
)
def one_resume_point(facts: Facts) -> Found | None:
    """A policy such as `best:1,latest:1`, or `save_total_limit=1`, keeps a single whole checkpoint."""
    if not facts.saves:
        return None
    if not facts.attached:
        if facts.settings.limit != 1 or limit_of_one.check(facts):
            return None
        return Found("save_total_limit=1: a single checkpoint to resume from", ("save_total_limit",))
    policy = facts.known_policy
    if most_whole(policy) > 1:
        return None
    keep = f"save_total_limit={facts.settings.limit}" if _by_limit(facts) else f"keep={format_spec(policy.rules)!r}"
    return Found(f"{keep}: a single checkpoint to resume from is sure to stay", ("keep", "save_total_limit"))


@rule(
    "W205",
    "save_strategy='best' leaves no late resume point",
    why="The stock Trainer saves when the metric improves, and only then. Once it no longer does, a crash loses "
    "everything since.",
    fix="Set save_strategy='steps', save_steps to eval_steps, and load_best_model_at_end=True.",
    solved="every evaluation is saved, and the newest stays",
)
def best_only(facts: Facts) -> Found | None:
    """`save_strategy="best"` saves new bests alone."""
    if facts.settings.word("save_strategy") != "best" or not facts.evaluates:
        return None
    return Found("save_strategy='best': nothing is saved while the metric does not improve", ("save_strategy",))


@rule(
    "E206",
    "no room for one checkpoint",
    why="The first save fails: the stock Trainer's training ends with it, and leaves half a checkpoint behind.",
    fix="Free some room, use another output_dir, or save less (LoRA, an 8-bit optimizer, save_only_model).",
    sources=ANYWHERE - {TRAINER},
)
def larger_than_the_disk(facts: Facts) -> Found | None:
    """A checkpoint is larger than what is free."""
    one, free = _sizes(facts)
    if one <= free:
        return None
    text = f"a checkpoint takes {format_size(one)}, and {format_size(free)} are free at {_place(facts)}"
    return Found(text, ("output_dir",))


@rule(
    "W207",
    "the checkpoints do not fit on the disk",
    why="A save is written beside everything that is kept, so that the peak is one more than the limit; when the disk "
    "is full, the stock training ends.",
    fix="Lower save_total_limit, or use a larger disk. `keepstep plan` shows every phase.",
    solved="older ones go when room is short; the start line says whether all will fit",
    sources=ANYWHERE - {RUN},
)
def peak_does_not_fit(facts: Facts) -> Found | None:
    """What is kept, and the one being written beside it, is more than what is free."""
    one, free = _sizes(facts)
    limit, every, total = facts.settings.limit, facts.steps_between_saves, facts.total_steps
    saves = None if every is None or total is None else -(-total // every)
    kept = min(limit + 1, saves or limit + 1) if limit else saves
    if kept is None:
        raise NotKnown("the steps of the training (--steps)")
    if one > free or kept * one <= free:
        return None
    text = f"up to {kept} checkpoints of {format_size(one)} lie on disk at once, and {format_size(free)} are free"
    return Found(f"{text} at {_place(facts)}", ("save_total_limit", "output_dir"))


def most_whole(policy: Policy) -> int:
    """How many whole checkpoints a policy is sure to keep, when there are as many."""
    counts = [1]
    for kept in policy.rules:
        match kept:
            case Latest(n=n):
                counts.append(n)
            case Best(k=k, full=full):
                counts.append(k if full else 1)
            case Pinned():
                pass
            case _:
                counts.append(2)
    return max(counts)


def _by_limit(facts: Facts) -> bool:
    try:
        return facts.keep is None and facts.settings.limit is not None
    except NotKnown:
        return False


def _sizes(facts: Facts) -> tuple[int, int]:
    """Bytes of a checkpoint, and bytes that are free. Raises NotKnown."""
    if facts.pace.checkpoint_bytes is None:
        raise NotKnown(facts.pace.size_missing)
    if facts.place is None or facts.place.free_bytes is None:
        raise NotKnown("the disk of the checkpoints")
    return facts.pace.checkpoint_bytes, facts.place.free_bytes


def _place(facts: Facts) -> str:
    return facts.place.path if facts.place else facts.where.path


def _until_the_end(facts: Facts) -> str:
    try:
        every, total = facts.steps_between_saves, facts.total_steps
    except NotKnown:
        return ""
    if every is None or total is None:
        return ""
    saves, one = -(-total // every), facts.pace.checkpoint_bytes
    least = "at least " if facts.save_every is not None else ""  # and what the clock asks for
    return f", {least}{saves:,} by the end" + (f", {format_size(saves * one)}" if one else "")
