"""Examining a target: gather its facts, put every rule to them, and report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keepstep.errors import PolicyError, SettingsError
from keepstep.operations.doctor import surroundings
from keepstep.operations.doctor.facts import DEFAULT_BANDWIDTH, DEFAULT_MTBF, Facts, Job, Pace, full_name, is_trainers
from keepstep.operations.doctor.findings import Finding, Gap, Report, Rule, in_order
from keepstep.operations.doctor.found import Found, Where
from keepstep.operations.doctor.reading.command_line import CommandLine
from keepstep.operations.doctor.reading.texts import Ignored
from keepstep.operations.doctor.rules import RULES
from keepstep.operations.doctor.run_facts import facts_of_run
from keepstep.operations.doctor.settings import DEFAULTS, Given, NotKnown
from keepstep.operations.doctor.targets import read_targets
from keepstep.operations.doctor.used import used
from keepstep.paths import expanded
from keepstep.retention import Metric, Mode, Policy, default_policy, known_mode, parse
from keepstep.run import Run

_ALL = "*"
QUIET = frozenset({"run", "trainer"})
"""Kinds of target of which it is not told what could not be judged: a person can't complete them."""


@dataclass(frozen=True, slots=True)
class Options:
    """What only a person knows, in seconds, bytes, bytes per second and steps; None where it was not said.

    `weights_bytes` is what of the size are weights, where it is that of a training by AdamW. `of_all_weights` says
    that it is that of a training of all weights: it tells nothing of one of an adapter.
    """

    step_seconds: float | None = None
    checkpoint_bytes: int | None = None
    weights_bytes: int | None = None
    of_all_weights: bool = False
    bandwidth: float | None = None
    mtbf: float | None = None
    grace: float | None = None
    steps: int | None = None
    ignore: frozenset[str] = frozenset()


def examine(target: Path, options: Options | None = None) -> tuple[Report, ...]:
    """One report for a YAML file, a job file or a run, one for each config of a script.

    Raises RunNotFound for a directory that is no run, SettingsError for a file that can't be read as what it is, and
    OSError for what is not there.
    """
    return examine_together([target], options)


def examine_together(
    targets: Sequence[Path], options: Options | None = None, arguments: Sequence[str] | None = None
) -> tuple[Report, ...]:
    """The reports of several targets, in their order, each judged with what the others tell: which job starts a
    training and with what, which two write to one directory. `arguments` are what a person says that the trainings are
    started with, None where nothing was said. Raises as `examine` does.
    """
    options = options or Options()
    read = read_targets(targets, CommandLine.typed(arguments) if arguments is not None else None)
    jobs = [one.job for one in read if one.job is not None]
    trainings = [one.path for one in read if one.job is None and one.path in targets]
    ignored = Ignored()
    before: list[Facts] = []
    reports: list[Report] = []
    for one in read:
        for facts in one.facts:
            if one.job is not None:
                paired = len(read) > len(jobs)
                reports.append(_judge_job(facts, one.job, options, ignored, paired=paired))
                continue
            job = _job_of(one.path, jobs, trainings)
            if facts.source == "run":
                given = replace(facts, job=job, pace=_pace(facts.pace, options, job))
            else:
                given = _complete(replace(facts, job=job, same_elsewhere=_same(facts, one.path, before)), options)
                before.append(facts)
            reports.append(judge(given, options.ignore, ignored))
    return tuple(reports)


def _judge_job(facts: Facts, job: Job, options: Options, ignored: Ignored, *, paired: bool) -> Report:
    """A job file alone; what it means for a training is said there, where one is examined too."""
    facts = replace(facts, pace=_pace(facts.pace, options, job))
    if paired:
        facts = replace(facts, pace=replace(facts.pace, grace=None))
    return judge(facts, options.ignore, ignored)


def _job_of(target: Path, jobs: Sequence[Job], trainings: Sequence[Path]) -> Job | None:
    """The job that starts a training: the one that names its file; else the only one, where it names none of them."""
    found = [job for job in jobs if _names(job, target)]
    if not found and len(jobs) == 1 and not any(_names(jobs[0], other) for other in trainings):
        found = list(jobs)
    return min(found, key=lambda job: job.grace or 0.0, default=None)


def _names(job: Job, target: Path) -> bool:
    return any(Path(name).name == target.name for name in job.starts)


def _same(facts: Facts, path: Path, before: Sequence[Facts]) -> tuple[str, ...]:
    """Trainings of other files that were examined before, and write to the same directory."""
    mine = _directory(facts)
    if mine is None or not facts.resume:
        return ()
    others = [other for other in before if other.resume and not _is_same_file(Path(other.where.path), path)]
    return tuple(str(other.at(other.settings.line("output_dir"))) for other in others if _directory(other) == mine)


def _directory(facts: Facts) -> str | None:
    """Where a training writes to, None where that is left to a default, or not known."""
    given = facts.settings.values.get("output_dir")
    if not isinstance(given, Given) or not isinstance(given.value, str) or "\0" in given.value:
        return None
    return os.path.realpath(expanded(given.value))


def _is_same_file(one: Path, other: Path) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def examine_run(run: Run, options: Options | None = None) -> Report:
    """The findings on a run directory. Raises PolicyError when its policy was edited into nonsense."""
    options = options or Options()
    facts = facts_of_run(run)
    return judge(replace(facts, pace=_pace(facts.pace, options)), options.ignore)


def judge(facts: Facts, ignore: Iterable[str] = (), ignored: Ignored | None = None) -> Report:
    """Every rule put to the facts; `ignore` are ids to leave out, `ignored` those that comments leave out."""
    findings: list[Finding] = []
    gaps: dict[str, list[str]] = {}
    left_out = set(ignore)
    passed_over: list[str] = []
    for rule in RULES.values():
        if facts.source not in rule.sources or (facts.attached and rule.solved):
            continue
        asking = replace(facts, settings=facts.settings.asking())
        try:
            found = rule.check(asking)
        except NotKnown as error:
            gaps.setdefault(str(error), []).append(rule.id)
            continue
        if found is None:
            continue
        where = facts.locate(found)
        if rule.id in left_out or _is_ignored(rule.id, where, found, facts, ignored):
            passed_over.append(rule.id)
            continue
        values = used(facts, asking.settings.asked or ())
        unless = " or ".join(dict.fromkeys(filter(None, (*(v.unless for v in values), *_left_open(facts, asking)))))
        findings.append(Finding(rule, found.what, found.fix or rule.fix, where, values, unless, found.title, found.why))
    missing = () if facts.source in QUIET else tuple(Gap(what, tuple(ids)) for what, ids in gaps.items())
    return Report(
        facts.where.path if not facts.where.line else str(facts.at(0)),
        facts.source,
        in_order(findings),
        facts.unread,
        missing,
        tuple(passed_over),
        used(facts, facts.settings.values),
        str(facts.command or ""),
    )


def _is_ignored(id_: str, where: Where, found: Found, facts: Facts, ignored: Ignored | None) -> bool:
    """True where a comment leaves a rule out: where the finding stands, or where its setting is used."""
    if ignored is None:
        return False
    lines = (facts.settings.line(name) for name in found.about)
    used_at = facts.at(next((line for line in lines if line), 0))
    ids = {id_ for place in (where, used_at) for id_ in ignored.at(place, facts.place_of)}
    return bool(ids & {id_, _ALL})


def _left_open(facts: Facts, asking: Facts) -> tuple[str, ...]:
    """What may say otherwise than a default that nobody gave, of those that a rule asked for."""
    asked = asking.settings.asked or set()
    return (facts.settings.unless,) if asked - facts.settings.values.keys() else ()


def rule_named(id_: str) -> Rule:
    """The rule of that id, in any case. Raises SettingsError, with a near one."""
    found = RULES.get(id_.strip().upper())
    if found is not None:
        return found
    same = [known for known in RULES if known[1:] == id_.strip()[1:]]
    guess = f"Did you mean {same[0]}? " if same else ""
    raise SettingsError(f"there is no rule {id_!r}", hint=f"{guess}The rules are {', '.join(RULES)}.")


def _complete(facts: Facts, options: Options) -> Facts:
    """With what the directory, the environment and the options say."""
    policy, chosen = _policy(facts)
    pace = _sized(_pace(facts.pace, options, facts.job), facts, options)
    facts = replace(facts, policy=policy, chosen=chosen, pace=pace)
    try:
        directory = facts.settings["output_dir"] or DEFAULTS["output_dir"]
    except NotKnown:
        return facts
    if not isinstance(directory, str) or "\0" in directory:
        return facts
    return replace(
        facts,
        place=surroundings.look_at(directory),
        checkpoints_there=surroundings.checkpoints_in(directory),
        places_before=surroundings.loggers_before(directory),
    )


def _pace(pace: Pace, options: Options, job: Job | None = None) -> Pace:
    scheduler, grace = surroundings.scheduler(os.environ)
    if job is not None:
        line = f":{job.line}" if job.line else ""
        scheduler, grace = f"{job.scheduler} ({job.path}{line}, {job.said})", job.grace
    return replace(
        pace,
        step_seconds=options.step_seconds or pace.step_seconds,
        checkpoint_bytes=options.checkpoint_bytes or pace.checkpoint_bytes,
        bandwidth=options.bandwidth or DEFAULT_BANDWIDTH,
        mtbf=options.mtbf or DEFAULT_MTBF,
        mtbf_given=options.mtbf is not None,
        grace=options.grace or grace,
        scheduler="" if options.grace else scheduler,
        steps=options.steps,
    )


def _sized(pace: Pace, facts: Facts, options: Options) -> Pace:
    """With the size of a checkpoint as this training saves it, where the options say that of another."""
    if options.of_all_weights and facts.model.adapter:
        return replace(pace, checkpoint_bytes=None, size_missing="the size of a checkpoint of the adapter (--lora-r)")
    if options.weights_bytes is None:
        return pace
    try:
        if facts.settings["save_only_model"] is True:
            return replace(pace, checkpoint_bytes=options.weights_bytes)
        optimizer = facts.settings["optim"] if facts.settings.given("optim") else None
    except NotKnown:
        return pace
    if optimizer is None or (str(optimizer).startswith("adamw") and "8bit" not in str(optimizer)):
        return pace
    return replace(
        pace,
        checkpoint_bytes=None,
        size_missing=f"the size of a checkpoint with optim={optimizer!r} (--checkpoint-size)",
    )


def _policy(facts: Facts) -> tuple[Policy | None, Metric | None]:
    """What an attached training keeps, and what it ranks by; None where that can't be read."""
    if not facts.attached:
        return None, None
    try:
        metric = _metric(facts) if facts.evaluates or facts.value(facts.metric, "metric") else None
        keep = facts.value(facts.keep, "keep")
        if keep is None:
            return default_policy(facts.settings.limit, metric), metric
        rules = parse(",".join(map(str, keep)) if isinstance(keep, list) else str(keep))  # pyright: ignore[reportUnknownArgumentType]
    except (NotKnown, PolicyError):
        return None, None
    ranks = any(rule.needs_metric for rule in rules)
    # That it can't rank is a finding of its own; what it keeps is known all the same.
    stand_in = Metric("eval_loss", "min") if ranks and metric is None else metric
    return Policy(rules, stand_in), metric


def _metric(facts: Facts) -> Metric | None:
    """As attach chooses it: name, then the direction that is said, else the table's, else the Trainer's own.

    Raises NotKnown.
    """
    settings = facts.settings
    name = str(facts.value(facts.metric, "metric") or settings["metric_for_best_model"] or "eval_loss")
    mode = facts.value(facts.mode, "mode")
    if mode is None:
        theirs: Mode | None = None
        guess, greater = not name.endswith("loss"), settings["greater_is_better"]
        if is_trainers(settings, name):
            theirs = "max" if (guess if greater is None else greater) else "min"
        said = greater is not None and bool(greater) != guess
        mode = (theirs if said else None) or known_mode(name) or theirs
    if mode not in ("min", "max"):
        return None
    return Metric(full_name(name), mode)
