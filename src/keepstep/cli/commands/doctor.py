"""`keepstep doctor`: what is wrong, or may go wrong, with a training's checkpoints."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keepstep.cli.command import Argument, Command, command, format_option
from keepstep.cli.drawing.quantities import DURATION, PARAMETERS, RATE, SIZE
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import clean, count
from keepstep.cli.many import each_below, root_option
from keepstep.operations.doctor import (
    COMMAND_LINE,
    Finding,
    Options,
    Report,
    Rule,
    Severity,
    examine_together,
    rule_named,
)
from keepstep.paths import expanded

if TYPE_CHECKING:
    from keepstep.operations.planning.sizes import CheckpointSize
    from keepstep.run import Run

_STYLES = {Severity.ERROR: "bold red", Severity.WARNING: "yellow", Severity.HINT: "cyan"}
_TITLES = {Severity.ERROR: "Errors", Severity.WARNING: "Warnings", Severity.HINT: "Hints"}
_WIDEST = 100
_INDENT = " " * 6


COLUMNS = ("id", "severity", "title", "what", "why", "fix", "where", "path", "line", "unless")
"""Columns of the format agent."""
_KINDS = {
    "script": "script", "yaml": "training file", "run": "run", "job": "job", "command": "command",
    "stock": "not managed: the arguments in its newest checkpoint",
}  # fmt: skip
_ARGUMENTS = "keepstep.doctor.arguments"


class _DoctorCommand(Command):
    """Takes what stands behind `--` as the training's own arguments."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            place = args.index("--")
            ctx.meta[_ARGUMENTS] = args[place + 1 :]
            args = args[:place]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "[-- ARGUMENTS...]"]


@command(
    "doctor",
    cls=_DoctorCommand,
    examples=[
        ("keepstep doctor train.py", "read a script, without running it"),
        ("keepstep doctor sft.yaml runs/sft", "a file of `trl sft --config`, and a run directory"),
        ("keepstep doctor train.py -- --save_steps 500", "with the arguments that it is started with"),
        ("keepstep doctor run.sh", "what a shell script starts, with the arguments that it gives"),
        ("keepstep doctor train.py runs/sft", "with the arguments that an earlier start left in its checkpoints"),
        ("keepstep doctor job.sbatch train.py --step-time 2.5s --params 13B",
         "does the job leave the time to save?"),
        ("keepstep doctor train.py --step-time 2.5s --params 13B --mtbf 8h --grace 30s",
         "how often to save, and whether a preemption leaves time to"),
        ("keepstep doctor train.py --ignore W204 --format json", "for a CI job: exit code 1 on an error"),
        ("keepstep doctor --root runs --format json", "every run below a directory: a line each, the worst exit code"),
        ("keepstep doctor --explain W204", "a rule in full"),
    ],
)  # fmt: skip
@click.argument(
    "targets",
    cls=Argument,
    metavar="[SCRIPT_OR_YAML_OR_SHELL_OR_RUN]...",
    nargs=-1,
    type=click.Path(path_type=Path),
    explanation="a Python script or a notebook, a training's YAML file (TRL, LLaMA-Factory, axolotl), a shell script "
    "or a job file (sbatch, Kubernetes), or the output_dir of a run; several of them are examined together",
)
@root_option
@click.option("--explain", metavar="ID", help="Print one rule in full, and nothing else.")
@click.option("--ignore", metavar="ID", multiple=True, help="Leave a rule out; may be given several times.")
@click.option("--step-time", type=DURATION, help="Time of one optimizer step, such as 2.5s.")
@click.option("--steps", type=click.IntRange(min=1), help="Optimizer steps of the whole training, where epochs decide.")
@click.option("--params", type=PARAMETERS, help="Parameters of the model, such as 13B, trained in bf16 by AdamW.")
@click.option("--lora-r", type=click.IntRange(min=1), help="With --params: only a LoRA of this rank is trained.")
@click.option("--checkpoint-size", type=SIZE, help="Bytes of one checkpoint, in place of --params.")
@click.option("--bandwidth", type=RATE, help="Bytes per second that the disk writes durably; 1GB/s by default.")
@click.option("--mtbf", type=DURATION, help="Mean time between failures or preemptions, such as 8h; 24h by default.")
@click.option(
    "--grace", type=DURATION, help="Time between a preemption's signal and the kill; 30s under SLURM and Kubernetes."
)
@format_option
@click.pass_context
def doctor(
    ctx: click.Context,
    /,
    *,
    targets: tuple[Path, ...],
    roots: tuple[str, ...],
    explain: str | None,
    ignore: tuple[str, ...],
    step_time: float | None,
    steps: int | None,
    params: int | None,
    lora_r: int | None,
    checkpoint_size: int | None,
    bandwidth: float | None,
    mtbf: float | None,
    grace: float | None,
    output: Output,
) -> None:
    """A script is read, never run: what depends on more than its text is listed as not known. What it is started with
    is taken from behind --, or from the shell script that starts it. A default is no fact: what rests on one is said
    to. A comment on the line of a setting silences a rule there: # keepstep: ignore W204. Every rule is explained in
    docs/doctor.md.

    Exit code 1 when there is an error. With --root every run below a directory is examined by itself: the exit code is
    the worst, JSON is a line for each.
    """
    if explain is not None:
        _explain(rule_named(explain), output)
        return
    if targets and roots:
        raise click.UsageError("--root examines runs, each by itself: leave the other targets out.")
    if not targets and not roots:
        raise click.UsageError("Give a script, a YAML file, a job's script or a run directory, or --explain ID.")
    if params is not None and checkpoint_size is not None:
        raise click.UsageError("--params and --checkpoint-size are two ways to say the same: give one.")
    if lora_r is not None and params is None:
        raise click.UsageError("--lora-r needs --params.")
    size = _size(params, lora_r) if params else None
    options = Options(
        step_seconds=step_time,
        checkpoint_bytes=checkpoint_size or (size.total if size else None),
        weights_bytes=size.thinned if size else None,
        of_all_weights=params is not None and lora_r is None,
        bandwidth=bandwidth,
        mtbf=mtbf,
        grace=grace,
        steps=steps,
        ignore=frozenset(rule_named(id_).id for id_ in ignore),
    )
    if roots:
        _each(roots, options, output)
        return
    reports = list(examine_together([expanded(target) for target in targets], options, ctx.meta.get(_ARGUMENTS)))
    if output.is_json:
        _json(reports, output)
    else:
        for report in reports:
            _print(report, output)
        _summary(reports, output)
    if not all(report.ok for report in reports):
        ctx.exit(1)


def _each(roots: Sequence[str], options: Options, output: Output) -> None:
    """Every run below some directories, each by itself."""
    reports: list[Report] = []

    def examine(run: Run, output: Output) -> None:
        found = examine_together([run.path], options)
        reports.extend(found)
        if output.is_json:
            _json(found, output)
        elif not any(report.findings for report in found):
            output.line("  nothing found")
        else:
            for report in found:
                _findings(report, output)
        if not all(report.ok for report in found):
            raise click.exceptions.Exit(1)

    outcomes = each_below(roots, output, examine)
    if reports and not output.is_json:
        output.line()
        _summary(reports, output)
    outcomes.end()


def _json(reports: Sequence[Report], output: Output) -> None:
    if output.is_agent:
        output.json([finding for report in reports for finding in report.to_json()["findings"]], columns=COLUMNS)
    else:
        output.json({"ok": all(r.ok for r in reports), "reports": [report.to_json() for report in reports]})


def _size(parameters: int, lora_rank: int | None) -> CheckpointSize:
    """The size of a checkpoint of such a model, by rule of thumb."""
    from keepstep.operations.planning.decoder import DEFAULT_TARGETS, decoder, decoder_with_lora
    from keepstep.operations.planning.optimizers import optimizer_named
    from keepstep.operations.planning.sizes import measure

    model = (
        decoder(parameters, "bf16")
        if lora_rank is None
        else decoder_with_lora(parameters, "bf16", lora_rank, DEFAULT_TARGETS, "fp32")
    )
    return measure(model, optimizer_named("adamw"))


def _print(report: Report, output: Output) -> None:
    started = f", with the arguments of {report.command}" if report.command not in ("", report.target) else ""
    output.line((report.target, "bold"), f" ({_KINDS[report.kind]}{started})")
    output.line()
    _findings(report, output)
    _not_known(report, output)


def _findings(report: Report, output: Output) -> None:
    for severity in Severity:
        found = [finding for finding in report.findings if finding.severity is severity]
        if found:
            output.line((_TITLES[severity], "bold"))
        for finding in found:
            _finding(finding, report, output)


def _finding(finding: Finding, report: Report, output: Output) -> None:
    where = "" if str(finding.where) == report.target else f"{finding.where}: "
    end = "" if finding.sentence.endswith(("?", ")")) else "."
    output.line("  ", (finding.id, _STYLES[finding.severity]), "  ", (finding.title, "bold"))
    _paragraph(f"{where}{finding.sentence}{end}", output)
    if sources := _sources(finding):
        _paragraph(f"{sources}.", output, "Known from")
    _paragraph(finding.why, output, "Why")
    _paragraph(finding.fix, output, "Fix")
    if finding.rule.solved:
        _paragraph(f"{finding.rule.solved}.", output, "With keepstep.attach")
    output.line()


def _sources(finding: Finding) -> str:
    """Where the values come from that a finding looks at, where they are not written in the target itself."""
    by_place: dict[str, list[str]] = {}
    for used in finding.values:
        if used.source != "literal":
            place = f"{used.source}, {used.where}" if used.where not in ("", COMMAND_LINE) else used.source
            by_place.setdefault(place, []).append(f"{used.name}={used.value!r}")
    return "; ".join(f"{', '.join(values)} ({place})" for place, values in by_place.items())


def _not_known(report: Report, output: Output) -> None:
    judged = {gap.missing: gap.rules for gap in report.gaps}
    lines = [*report.unread, *(missing for missing in judged if missing not in report.unread)]
    if report.ignored:
        output.line(("Ignored", "bold"), f": {', '.join(report.ignored)}")
        output.line()
    if not lines:
        return
    output.line(("Not known", "bold"), " (so the rules behind it could not be judged)")
    for line in lines:
        rules = judged.get(line, ())
        text = f"{line}: {', '.join(rules)}" if rules else line
        for part in _wrapped(text, "  ", "    "):
            output.line((part, "dim"))
    output.line()


def _summary(reports: Sequence[Report], output: Output) -> None:
    numbers = {severity: sum(report.count(severity) for report in reports) for severity in Severity}
    spans = [(count(number, severity.value), _STYLES[severity]) for severity, number in numbers.items() if number]
    if not spans:
        output.line(("Nothing found", "green"), " by the rules that could be judged.")
        return
    joined = [part for span in spans for part in (", ", span)][1:]
    first = next(finding.id for report in reports for finding in report.findings)
    output.line(*joined, (f". A rule in full: keepstep doctor --explain {first}", "dim"))


def _explain(rule: Rule, output: Output) -> None:
    if output.is_json:
        output.json(
            {
                "id": rule.id, "severity": rule.severity.value, "title": rule.title, "what": rule.what,
                "why": rule.why, "fix": rule.fix, "with_keepstep": rule.solved or None,
                "looks_at": sorted(rule.sources),
            }
        )  # fmt: skip
        return
    output.line((rule.id, _STYLES[rule.severity]), " ", (rule.title, "bold"), (f"  ({rule.severity.value})", "dim"))
    for name, text in (
        ("", rule.what),
        ("Why", rule.why),
        ("Fix", rule.fix),
        ("With keepstep.attach", f"{rule.solved}." if rule.solved else ""),
    ):
        if text:
            output.line()
            _paragraph(text, output, name, indent="  ")


def _paragraph(text: str, output: Output, name: str = "", indent: str = _INDENT) -> None:
    start = f"{name}: " if name else ""
    first, *rest = _wrapped(start + text, indent, indent)
    label = indent + start
    if start and first.startswith(label):
        output.line((label, "bold"), first[len(label) :])
    else:
        output.line(first)
    for line in rest:
        output.line(line)


def _wrapped(text: str, first: str, later: str) -> list[str]:
    """Lines of a paragraph, fitted to the terminal."""
    width = max(min(shutil.get_terminal_size((_WIDEST, 24)).columns, _WIDEST), 30)
    lines = textwrap.wrap(clean(text), width, initial_indent=first, subsequent_indent=later, break_on_hyphens=False)
    return lines or [first]
