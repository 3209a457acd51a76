"""Examining a target: gather its facts, put every rule to them, and report."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from keepstep.errors import PolicyError, RunNotFound, SettingsError
from keepstep.operations.doctor import surroundings
from keepstep.operations.doctor.facts import DEFAULT_BANDWIDTH, DEFAULT_MTBF, Facts, Job, Pace, full_name, is_trainers
from keepstep.operations.doctor.findings import Finding, Gap, Report, Rule, in_order
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.job_file import ENDINGS as JOB_ENDINGS
from keepstep.operations.doctor.job_file import is_manifest, read_job_file
from keepstep.operations.doctor.rules import RULES
from keepstep.operations.doctor.run_facts import facts_of_run
from keepstep.operations.doctor.script import read_script
from keepstep.operations.doctor.settings import DEFAULTS, Given, NotKnown, Settings
from keepstep.operations.doctor.training_file import ENDINGS, read_training_file
from keepstep.paths import expanded
from keepstep.retention import Metric, Mode, Policy, default_policy, known_mode, parse
from keepstep.run import Run, is_run

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


def examine_together(targets: Sequence[Path], options: Options | None = None) -> tuple[Report, ...]:
    """The reports of several targets, in their order, each judged with what the others tell: which job starts a
    training, which two write to one directory. Raises as `examine` does.
    """
    options = options or Options()
    read = [_read(target) for target in targets]
    jobs = [one.job for one in read if one.job is not None]
    trainings = [one.path for one in read if one.job is None]
    before: list[Facts] = []
    reports: list[Report] = []
    for one in read:
        for facts in one.facts:
            if one.job is not None:
                reports.append(_judge_job(facts, one, options, paired=bool(trainings)))
                continue
            job = _job_of(one.path, jobs, trainings)
            if facts.source == "run":
                given = replace(facts, job=job, pace=_pace(facts.pace, options, job))
            else:
                given = _complete(replace(facts, job=job, same_elsewhere=_same(facts, one.path, before)), options)
                before.append(facts)
            reports.append(judge(given, options.ignore, one.ignored))
    return tuple(reports)


@dataclass(frozen=True, slots=True)
class _Read:
    """A target as it was read: its facts, ids to ignore by line, and the job, where it is a job file."""

    path: Path
    facts: tuple[Facts, ...]
    ignored: Mapping[int, frozenset[str]] = field(default_factory=dict[int, frozenset[str]])
    job: Job | None = None


def _read(target: Path) -> _Read:
    if target.is_dir():
        if not is_run(target):
            raise _no_run(target)
        return _Read(target, (facts_of_run(Run.open(target)),))
    kind = target.suffix.lower()
    if kind in JOB_ENDINGS or (kind in ENDINGS and is_manifest(target)):
        return _read_job(target)
    if kind in ENDINGS:
        facts, ignored = read_training_file(target)
        return _Read(target, (facts,), ignored)
    if kind == ".py":
        script = read_script(target)
        return _Read(target, script.facts, script.ignored)
    if not target.exists():
        raise RunNotFound(
            f"there is no {target}",
            hint="Give a script, a file of `trl sft --config`, a job's script, or the output_dir.",
        )
    raise SettingsError(
        f"{target} is neither a Python script (.py) nor a YAML file (.yaml, .yml) nor a job file "
        f"({', '.join(JOB_ENDINGS)}) nor a run directory",
        hint="Give the script, the file of `trl sft --config`, the job's script, or the output_dir.",
    )


def _read_job(target: Path) -> _Read:
    found = read_job_file(target)
    if not found.job.known:
        raise SettingsError(
            f"{target} has no #SBATCH line and starts no training", hint="Give the script that sbatch is given."
        )
    settings = Settings({}, complete=False, why_incomplete="the training that it starts: give its file too")
    facts = Facts("job", Where(str(target)), settings, job=found.job, unread=found.unread)
    return _Read(target, (facts,), found.ignored, found.job)


def _judge_job(facts: Facts, read: _Read, options: Options, *, paired: bool) -> Report:
    """A job file alone; what it means for a training is said there, where one is examined too."""
    facts = replace(facts, pace=_pace(facts.pace, options, read.job))
    if paired:
        facts = replace(facts, pace=replace(facts.pace, grace=None))
    return judge(facts, options.ignore, read.ignored)


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


def judge(
    facts: Facts, ignore: Iterable[str] = (), ignored_lines: Mapping[int, frozenset[str]] | None = None
) -> Report:
    """Every rule put to the facts; `ignore` are ids to leave out, `ignored_lines` ids by line (`*` for all)."""
    findings: list[Finding] = []
    gaps: dict[str, list[str]] = {}
    left_out = set(ignore)
    ignored: list[str] = []
    for rule in RULES.values():
        if facts.source not in rule.sources or (facts.attached and rule.solved):
            continue
        try:
            found = rule.check(facts)
        except NotKnown as error:
            gaps.setdefault(str(error), []).append(rule.id)
            continue
        if found is None:
            continue
        where = facts.locate(found)
        here = (ignored_lines or {}).get(where.line, frozenset())
        if rule.id in left_out or rule.id in here or _ALL in here:
            ignored.append(rule.id)
            continue
        findings.append(Finding(rule, found.what, found.fix or rule.fix, where))
    missing = () if facts.source in QUIET else tuple(Gap(what, tuple(ids)) for what, ids in gaps.items())
    return Report(
        str(facts.where) if facts.source == "script" else facts.where.path,
        facts.source,
        in_order(findings),
        facts.unread,
        missing,
        tuple(ignored),
    )


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


def _no_run(target: Path) -> RunNotFound:
    scripts = sorted(path.name for path in target.iterdir() if path.suffix in (".py", *ENDINGS))[:10]
    found = surroundings.checkpoints_in(target)
    if found:
        what = f"{target} has {len(found)} checkpoints that keepstep did not commit, and no run"
        hint = "Give the training's script in its place."
    else:
        what, hint = f"{target} is no run directory", "Give a script, a YAML file, or the output_dir of a training."
        runs = sorted(child.name for child in target.iterdir() if child.is_dir() and is_run(child))[:10]
        if runs:
            hint = f"There are runs below it: {', '.join(runs)}"
    if scripts:
        hint += f" There are files in it: {', '.join(scripts)}"
    return RunNotFound(what, hint=hint)
