"""What shells are told of references while they are typed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, split_arg_string

from keepstep.paths import expanded

if TYPE_CHECKING:
    from keepstep.run import Run


def references_of(ctx: click.Context, incomplete: str) -> list[CompletionItem]:
    """The references of the run that was typed before; nothing where it can't be read."""
    try:
        run = ctx.params.get("run") or _typed_run()
        found = {} if run is None else _references(run)
    except Exception:  # whoever is typing must not be interrupted by what is wrong with a run
        return []
    return [CompletionItem(name, help=text) for name, text in found.items() if name.startswith(incomplete)]


def _typed_run() -> Run | None:
    """The run in the words so far: an option that still lacks its value keeps click from reading them."""
    from keepstep.run import open_run

    words = split_arg_string(os.environ.get("COMP_WORDS", ""))[2:]
    paths = [expanded(word) for word in words if not word.startswith("-")]
    return next((open_run(path) for path in paths if path.is_dir()), None)


def _references(run: Run) -> dict[str, str]:
    from keepstep.cli.drawing.text import clean
    from keepstep.retention import rank
    from keepstep.units import format_number, format_size

    checkpoints, metric, tags = run.checkpoints, run.policy.metric, run.pins.tags
    found: dict[str, str] = {}
    ranked = rank(checkpoints, metric) if metric else ()
    if ranked:
        found["best"] = f"step {ranked[0].step}"
    if checkpoints:
        found["latest"] = f"step {checkpoints[-1].step}"
    steps = {checkpoint.generation: checkpoint.step for checkpoint in checkpoints}
    found |= {clean(tag): f"step {steps[generation]}" for tag, generation in tags.items() if generation in steps}
    for checkpoint in reversed(checkpoints):
        value = metric.value(checkpoint.metrics) if metric else None
        text = f"{metric.name} {format_number(value)}, " if metric and value is not None else ""
        found[str(checkpoint.step)] = text + format_size(checkpoint.size_bytes)
    for checkpoint in reversed(run.aside):
        text = f"step {checkpoint.step}, {checkpoint.state.value}, {format_size(checkpoint.size_bytes)}"
        found[f"gen:{checkpoint.generation}"] = text
    for previous in run.previous_runs.runs:
        found[f"previous:{previous.name}"] = f"a previous run of {len(previous.checkpoints)} checkpoints"
    return found
