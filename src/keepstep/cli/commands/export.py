"""`keepstep export`: a clean model directory out of a run, checked, and pushed where that is asked."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import click

from keepstep.cli.command import REFERENCES, Argument, command, format_option, run_argument
from keepstep.cli.drawing.quantities import SIZE
from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.tables import Cell, Column, Table
from keepstep.cli.drawing.text import count
from keepstep.errors import SettingsError
from keepstep.operations.export.files import OTHERS
from keepstep.operations.export.holding import with_plan
from keepstep.operations.export.plan import ExportPlan, plan_export
from keepstep.operations.export.report import Average, Export
from keepstep.operations.export.request import Dtype, Request, Soup
from keepstep.run import Run
from keepstep.units import align_numbers, format_size

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@command(
    "export",
    examples=[
        ("keepstep export runs/sft best release/", "the best checkpoint as a clean model directory, checked"),
        ("keepstep export runs/sft best release/ --merge --dtype bf16", "a LoRA adapter merged into its base"),
        ("keepstep export runs/sft release/ --average best:3 --soup greedy --eval-data held-out.txt",
         "the average of those of the best three that make it better"),
        ("keepstep export s3://bucket/team/sft best release/",
         "straight from a mirror: config, tokenizer and weights travel, the optimizer does not"),
        ("keepstep export runs/sft best release/ --push me/my-model --private", "and upload it to the hub"),
    ],
)  # fmt: skip
@run_argument
@click.argument("reference", cls=Argument, metavar="[REF]", explanation=REFERENCES + "; left out only with --average")
@click.argument(
    "directory", cls=Argument, metavar="DIR", required=False, explanation="a directory that is new or empty"
)
@click.option("--dtype", type=click.Choice(get_args(Dtype)), help="Cast the weights.")
@click.option("--max-shard-size", type=SIZE, help="Bytes of one weights file at most: 5GB.")
@click.option("--merge", is_flag=True, help="Put an adapter into its base model: a whole model is exported.")
@click.option("--base", metavar="DIR_OR_NAME", help="The base of an adapter, where its config does not say it right.")
@click.option("--base-name", metavar="NAME", help="What the export says of its base: a name on the hub.")
@click.option("--config-from", metavar="DIR", type=click.Path(path_type=Path),
              help="Config and tokenizer of a sharded checkpoint that has none.")  # fmt: skip
@click.option("--average", metavar="MEMBERS", help="Export a mean of weights: best:3, or references as in 300,200.")
@click.option("--soup", type=click.Choice(get_args(Soup)), default="uniform", show_default=True,
              help="uniform: the mean of all; greedy: of those that make it better.")  # fmt: skip
@click.option("--eval-data", type=_FILE, help="Text, or JSON lines, to evaluate averages on: mean loss per token.")
@click.option("--include", multiple=True, metavar="PATTERN", help="Export these files of the checkpoint as well.")
@click.option("--force", is_flag=True, help="Replace an earlier export in DIR, and nothing else.")
@click.option("--check/--no-check", default=True, help="Load the export and compare it with its source (default).")
@click.option("--dry-run", is_flag=True, help="Show what would be written.")
@click.option("--push", metavar="REPO", help="Upload the export to this repository of the Hugging Face hub.")
@click.option("--private", is_flag=True, help="Make the repository a private one, where it is new.")
@click.option("--revision", metavar="BRANCH", help="Push to this branch.")
@format_option
def export(
    *,
    run: Run,
    reference: str,
    directory: str | None,
    dry_run: bool,
    push: str | None,
    private: bool,
    revision: str | None,
    output: Output,
    **options: Any,
) -> None:
    """The checkpoint is verified, its model files are copied (or merged, cast, averaged as asked) beside DIR, loaded by
    stock code and compared with the source, tensor by tensor and by a forward pass. Only then DIR appears, with a model
    card, and keepstep_export.json with all digests. Exit code 1 when the comparison fails; nothing is left then.
    """
    if directory is None:
        if options["average"] is None:
            raise click.UsageError("Missing argument 'DIR': keepstep export RUN REF DIR.")
        reference, directory = "", reference
    if (private or revision) and push is None:
        raise click.UsageError("--private and --revision go with --push REPO.")
    request = Request(directory=Path(directory), reference=reference or None, **options)
    if dry_run:
        _show_plan(plan_export(run, request), output)
        return
    destination: Any = None

    def carry_out(plan: ExportPlan) -> tuple[ExportPlan, Export]:
        nonlocal destination
        _need_packages(plan)
        if not output.is_json:
            output.note(f"{_margin(plan)}.")
        if push is not None:
            destination = _destination(plan, push, private=private or None, revision=revision)
        return plan, _carry_out(plan, output)

    plan, exported = with_plan(run, request, carry_out)
    if not output.is_json:
        _report(plan, exported, output)
    if destination is not None:
        exported = import_module("keepstep.integrations.hub").push_export(exported, destination)
        if not output.is_json:
            output.line(("pushed      ", "green"), str(exported.pushed_to))
    if output.is_json:
        output.json(exported.to_json())


def _destination(plan: ExportPlan, push: str, **options: Any) -> Any:
    """Where it is pushed to. Raises what would make that fail."""
    hub = import_module("keepstep.integrations.hub")
    destination = hub.Destination.of(push, **options)
    hub.ready(destination, plan)
    return destination


def _need_packages(plan: ExportPlan) -> None:
    needed = ["torch", "transformers", "safetensors", "huggingface_hub", *(["peft"] if plan.files.adapter else [])]
    missing = [name for name in needed if find_spec(name) is None]
    if missing:
        raise SettingsError(
            f"an export is checked by loading it, and that needs {', '.join(missing)}",
            hint='Install it: pip install "keepstep[hf]"' + (" peft" if "peft" in missing else ""),
        )


def _carry_out(plan: ExportPlan, output: Output) -> Export:
    with output.progress("loading torch and transformers", None) as progress:
        exporter = import_module("keepstep.integrations.transformers.exporting.exporter")
        return exporter.carry_out(plan, progress)


def _show_plan(plan: ExportPlan, output: Output) -> None:
    if output.is_json:
        output.json(plan.to_json())
        return
    steps = ", ".join(str(member.step) for member in plan.members)
    output.line((f"{plan.kind} ", "bold"), f"of step {steps} would be written to {_short(plan.target.path)}")
    if plan.not_the_best:
        output.line((f"This is {plan.not_the_best}.", "bold yellow"))
    if plan.target.replaces:
        output.line(("An earlier export is there, and would be replaced.", "bold yellow"))
    output.line()
    rows = [(f.path, format_size(f.size), "copied") for f in plan.others]
    rows += [(f.path, format_size(f.size), "copied from --config-from") for f in plan.lent]
    rows += [(f.path, format_size(f.size), "copied" if plan.copies else "read") for f in plan.files.weights]
    rows += [(path, "", f"left out: {why}") for path, why in sorted(plan.left.items())]
    columns = (Column("File", essential=True), Column("Size", "right"), Column("Export", essential=True))
    output.table(Table(columns, tuple(tuple(map(Cell.of, row)) for row in rows)))
    output.line()
    output.line((f"{_margin(plan)}. Nothing was written.", "bold"))


def _margin(plan: ExportPlan) -> str:
    """The bytes that it takes at the worst moment, against what is free."""
    size = "as many bytes as the base has" if plan.bytes_written is None else format_size(plan.bytes_written)
    return f"At most {size} on disk, {format_size(plan.target.free_bytes)} free there"


def _short(path: Path) -> str:
    """A path as somebody here would type it."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _report(plan: ExportPlan, exported: Export, output: Output) -> None:
    source = exported.average.name if exported.average else f"step {exported.members[0].step}"
    size = f"{format_size(exported.size_bytes)} in {count(len(exported.files), 'file')}"
    output.line((_short(exported.path), "bold"))
    output.line(("exported    ", "green"), f"{exported.kind}, {source}, {exported.dtype}: {size}")
    if exported.check is None:
        output.line(("unchecked   ", "bold yellow"), "the export was not loaded, and not compared with its source")
    else:
        for number, line in enumerate(exported.check.lines()):
            said = ("not tried   ", "yellow") if line.startswith("not tried: ") else ("checked     ", "green")
            output.line(
                said if number == 0 or said[1] == "yellow" else "            ", line.removeprefix("not tried: ")
            )
    if exported.average is not None:
        _report_average(exported.average, output)
    theirs = sorted(path for path, why in plan.left.items() if why == OTHERS)
    if theirs:
        output.line(("left out    ", "yellow"), f"{', '.join(theirs)}: {OTHERS}")
    for text in exported.notes:
        output.line(("note        ", "yellow"), text)


def _report_average(average: Average, output: Output) -> None:
    if average.trials:
        columns = (Column("Averaged steps", essential=True), Column(average.measured, "right", folds=True, minimum=12))
        values = align_numbers([trial.value for trial in average.trials])
        rows = [(" + ".join(map(str, t.steps)), value) for t, value in zip(average.trials, values, strict=True)]
        output.line()
        output.table(Table(columns, tuple(tuple(map(Cell.of, row)) for row in rows)))
        output.line()
    good = average.result is not None and not average.worse
    output.line((average.verdict(), "green" if good else "bold yellow"))
