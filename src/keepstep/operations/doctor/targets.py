"""The targets of an examination, read together: what a script is started with stands in a shell script beside it."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from keepstep.errors import RunNotFound, SettingsError
from keepstep.operations.doctor import surroundings
from keepstep.operations.doctor.facts import Facts, Job
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.job_file import ENDINGS as JOB_ENDINGS
from keepstep.operations.doctor.job_file import JobFile, is_manifest, read_job_file
from keepstep.operations.doctor.launched import launched
from keepstep.operations.doctor.reading.command_line import UNKNOWN, CommandLine, free_values
from keepstep.operations.doctor.reading.shell import commands
from keepstep.operations.doctor.reading.starts import Start, starts
from keepstep.operations.doctor.run_facts import facts_of_run
from keepstep.operations.doctor.script import read_script, trains
from keepstep.operations.doctor.settings import Settings
from keepstep.operations.doctor.stored import complete_from, facts_of_stock, stored_in
from keepstep.operations.doctor.training_file import ENDINGS, TELLING, facts_of_tool, read_training_file
from keepstep.paths import expanded
from keepstep.run import holds_run, open_run

SCRIPTS = (".py", ".ipynb")
STARTED = "the program that is started"
_DECIDING = frozenset({
    "save_strategy", "save_steps", "save_total_limit", "eval_strategy", "evaluation_strategy", "eval_steps",
    "load_best_model_at_end",
})  # fmt: skip
_ABOVE = 3
"""Directories above a shell script's own, from which it may be started: `scripts/train.sh`."""


@dataclass(frozen=True, slots=True)
class Target:
    """A target as it was read: its facts, and the job, where it is a job file."""

    path: Path
    facts: tuple[Facts, ...]
    job: Job | None = None


def read_targets(paths: Sequence[Path], typed: CommandLine | None = None) -> list[Target]:
    """The targets in their order; `typed` is what all of them are started with.

    A script that a shell script names is read with the command that starts it: where it is a target itself, else where
    it lies as it is named. Raises RunNotFound, SettingsError and OSError.
    """
    shells = {path: read_job_file(path) for path in paths if path.suffix.lower() in JOB_ENDINGS and not path.is_dir()}
    named = [start for shell in shells.values() for start in shell.starts]
    notebooks = {path: list(_in_notebook(path)) for path in paths if path.suffix.lower() == ".ipynb"}
    named += [start for found in notebooks.values() for start in found]
    stored = [found for path in paths if path.is_dir() and (found := stored_in(path)) is not None]
    read: list[Target] = []
    for path in paths:
        if path in shells:
            read += _of_shell(path, shells[path], paths, typed)
            continue
        target = _read(path, [start.line for start in named if start.name == path.name], typed)
        if len(stored) == 1 and target.facts and target.facts[0].source in ("script", "yaml"):
            target = replace(target, facts=tuple(complete_from(facts, stored[0]) for facts in target.facts))
        read.append(target)
        read += [one for start in notebooks.get(path, ()) for one in _started(start, path, paths, typed)]
    return read


def _read(path: Path, lines: Sequence[CommandLine], typed: CommandLine | None) -> Target:
    if path.is_dir():
        run = open_run(path) if holds_run(path) else None
        stored = stored_in(path) if run is None or not run.managed else None
        if run is None and stored is None:
            raise _no_run(path)
        facts = [facts_of_stock(stored)] if stored is not None else []
        # What is torn or not ranked is a run's; a stock one's arguments tell all else.
        if run is not None and (stored is None or any(checkpoint.damage for checkpoint in run.checkpoints)):
            facts.append(facts_of_run(run))
        return Target(path, tuple(facts))
    kind = path.suffix.lower()
    if kind in ENDINGS and is_manifest(path):
        job = read_job_file(path)
        return Target(path, (_job_facts(path, job.job, job.unread),), job.job)
    given = _distinct([line + typed if typed else line for line in lines]) or ([typed] if typed else [None])
    if kind in ENDINGS:
        return Target(path, tuple(launched(facts, line) for line in given for facts in read_training_file(path, line)))
    if kind in SCRIPTS:
        return Target(path, tuple(launched(facts, line) for line in given for facts in read_script(path, line).facts))
    if not path.exists():
        raise RunNotFound(
            f"there is no {path}",
            hint="Give a script, a file of `trl sft --config`, a job's script, or the output_dir.",
        )
    raise SettingsError(
        f"{path} is neither a Python script (.py) nor a notebook (.ipynb) nor a YAML file (.yaml, .yml) nor a job file "
        f"({', '.join(JOB_ENDINGS)}) nor a run directory",
        hint="Give the script, the file of `trl sft --config`, the job's script, or the output_dir.",
    )


def _distinct(lines: Sequence[CommandLine]) -> list[CommandLine | None]:
    found: dict[tuple[str, ...], CommandLine | None] = {}
    for line in lines:
        found.setdefault(tuple(word.text for word in line.words), line)
    return list(found.values())


# -- what a shell script starts ------------------------------------------------------------------------------


def _of_shell(path: Path, shell: JobFile, paths: Sequence[Path], typed: CommandLine | None) -> Iterator[Target]:
    trainings = [one for start in shell.starts for one in _started(start, path, paths, typed)]
    if not shell.queued:
        names = {other.name for other in paths}
        if not trainings and not any(start.name in names for start in shell.starts):
            raise SettingsError(
                f"{path} has no #SBATCH line and starts no training", hint="Give the script that sbatch is given."
            )
        yield from trainings
        return
    unread = list(shell.unread)
    for one in trainings:
        for facts in one.facts:
            if facts.source == "command" and not facts.settings.values:  # not here, and told nothing
                unread += facts.unread
    yield Target(path, (_job_facts(path, shell.job, tuple(dict.fromkeys(unread))),), shell.job)
    for one in trainings:
        if any(facts.settings.values or facts.source != "command" for facts in one.facts):
            yield one


def _job_facts(path: Path, job: Job, unread: tuple[str, ...]) -> Facts:
    settings = Settings({}, complete=False, why_incomplete="the training that it starts: give its file too")
    return Facts("job", Where(str(path)), settings, job=job, unread=unread)


def _started(start: Start, shell: Path, paths: Sequence[Path], typed: CommandLine | None) -> Iterator[Target]:
    """The training that a command starts, where it is no target itself."""
    names = {path.name for path in paths}
    line = start.line + typed if typed else start.line
    if start.name in names or (start.config and Path(start.config).name in names):
        return
    if start.tool:
        config = _found(start.config, shell) if start.config else None
        if config is not None:
            yield Target(config, tuple(launched(facts, line) for facts in read_training_file(config, line)))
        else:
            yield Target(shell, (launched(facts_of_tool(start.tool, line), line),))
        return
    script = _found(start.program, shell)
    if script is None:
        yield from _unseen(start, shell, line, "which is not here: give its file too")
    elif trains(script):
        facts = tuple(launched(one, line) for one in read_script(script, line).facts)
        if not any(one.where.line for one in facts):  # it hands its command line on, to what is elsewhere
            unseen = list(_unseen(start, shell, line, "which makes no training arguments itself"))
            if any(one.facts[0].settings.values for one in unseen):
                yield from unseen
                return
        yield Target(script, facts)


def _unseen(start: Start, shell: Path, line: CommandLine, why: str) -> Iterator[Target]:
    """What the command line alone tells of a training, where its program tells nothing."""
    flags = free_values(line).keys()
    if start.module and not TELLING & flags:
        return
    facts = launched(facts_of_tool(start.program, line), line)
    why = f"{start.program.replace(UNKNOWN, '$...')}, {why}"
    # With several of these, its options are those of TrainingArguments.
    known = len(_DECIDING & flags) > 1
    settings = replace(facts.settings, complete=known, why_incomplete=why, unless=STARTED if known else "")
    if not TELLING & flags:
        settings = replace(settings, values={})
    unread = tuple(dict.fromkeys((*settings.unread, why)))
    yield Target(shell, (replace(facts, settings=settings, resume=(), resume_known=False, unread=unread),))


def _found(name: str, shell: Path) -> Path | None:
    """A file by the name that a shell script has for it, from where that may be started."""
    if "\0" in name or UNKNOWN in name:
        return None
    above = shell.resolve().parents[1 : 1 + _ABOVE]
    near = (expanded(name), shell.parent / name, shell.parent / Path(name).name)
    far = (Path(os.path.relpath(one / name)) for one in above)
    return next((path for path in (*near, *far) if path.is_file()), None)


def _in_notebook(path: Path) -> Iterator[Start]:
    for text, line in read_script(path).shell:
        yield from starts(commands(text, str(path), line), str(path))


def _no_run(target: Path) -> RunNotFound:
    scripts = sorted(path.name for path in target.iterdir() if path.suffix in (*SCRIPTS, *ENDINGS, *JOB_ENDINGS))[:10]
    found = surroundings.checkpoints_in(target)
    if found:
        what = f"{target} has {len(found)} checkpoints that keepstep did not commit, and no run"
        hint = "Give the training's script in its place."
    else:
        what, hint = f"{target} is no run directory", "Give a script, a YAML file, or the output_dir of a training."
        runs = sorted(child.name for child in target.iterdir() if child.is_dir() and holds_run(child))[:10]
        if runs:
            hint = f"There are runs below it: {', '.join(runs)}"
    if scripts:
        hint += f" There are files in it: {', '.join(scripts)}"
    return RunNotFound(what, hint=hint)
