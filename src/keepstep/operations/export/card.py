"""The model card of an export: facts of the run, and what was checked. Metadata as the hub reads it: YAML in front."""

from __future__ import annotations

import json
from collections.abc import Iterable

from keepstep.operations.export.facts import base_model, command_of, metrics_of, versions_of
from keepstep.operations.export.marker import MARKER
from keepstep.operations.export.plan import ExportPlan
from keepstep.operations.export.report import Average, Export
from keepstep.units import format_moment, format_number

_PIPELINES = {"CausalLM": "text-generation", "SequenceClassification": "text-classification"}


def card(plan: ExportPlan, exported: Export) -> str:
    """The text of README.md. What comes from files anybody may have written is made harmless."""
    source = exported.members[0]
    base = base_model(plan)
    title = f"{exported.kind.capitalize()} of run {plan.run.id}, " + (
        f"step {source.step}" if exported.average is None else exported.average.name
    )
    parts = [
        _front_matter(plan, exported, base),
        f"# {_plain(title)}\n",
        _facts(plan, exported, base),
        "## Metrics\n\n" + _metrics(plan, exported),
        *([f"## Use\n\n{use}"] if (use := _use(plan, exported)) else []),
        *([_averaged(exported.average)] if exported.average else []),
        "## Checked\n\n" + _checked(plan, exported),
        "## How it was made\n\n" + _made(plan),
    ]
    return "\n".join(parts)


def _front_matter(plan: ExportPlan, exported: Export, base: str | None) -> str:
    adapter = exported.kind == "adapter"
    lines = [f"library_name: {'peft' if adapter else 'transformers'}"]
    if base is not None:
        relation = "adapter" if adapter else "finetune"
        lines += [f"base_model: {json.dumps(base)}", f"base_model_relation: {relation}"]
    loaded = exported.check.loaded_by if exported.check else ""
    lines += [f"pipeline_tag: {tag}" for ending, tag in _PIPELINES.items() if ending in loaded]
    lines += ["tags:", "- keepstep", *(["- lora"] if adapter else []), *(["- model-soup"] if exported.average else [])]
    return "---\n" + "\n".join(lines) + "\n---\n"


def _facts(plan: ExportPlan, exported: Export, base: str | None) -> str:
    source = exported.members[0]
    rows = [
        ("base model", base or "not known by a public name"),
        ("run", plan.run.id),
        ("step", _join(m.step for m in exported.members)),
        ("epoch", _join("not known" if m.epoch is None else f"{m.epoch:.4g}" for m in exported.members)),
        ("saved", _join(format_moment(m.created) for m in exported.members)),
        ("parameters here", f"{exported.parameters:,} ({exported.dtype})"),
        ("training data", "not recorded"),
        ("trained with", _join(f"{name} {version}" for name, version in versions_of(source).items()) or "not recorded"),
        ("left out of the checkpoint", _join(exported.left_out) or "nothing"),
    ]
    return "| | |\n|---|---|\n" + "".join(f"| {name} | {_plain(value)} |\n" for name, value in rows)


def _use(plan: ExportPlan, exported: Export) -> str:
    """How stock code loads it, empty where that was not tried."""
    name = exported.check.loaded_by if exported.check else ""
    if not name:
        return ""
    adapter = exported.kind == "adapter"
    loader = f"AutoPeft{name.removeprefix('Peft')}" if adapter else name
    lines = [f"from {'peft' if adapter else 'transformers'} import {loader}"]
    tokenizer = any(entry.path.startswith("tokenizer") for entry in (*plan.others, *plan.lent))
    lines += ["from transformers import AutoTokenizer"] if tokenizer else []
    lines += ["", f'model = {loader}.from_pretrained("DIR_OR_REPOSITORY")']
    lines += ['tokenizer = AutoTokenizer.from_pretrained("DIR_OR_REPOSITORY")'] if tokenizer else []
    return "```python\n" + "\n".join(lines) + "\n```\n"


def _metrics(plan: ExportPlan, exported: Export) -> str:
    ranked = plan.run.policy.metric
    text = f"The run was ranked by {_plain(ranked.name)} ({ranked.direction}).\n\n" if ranked else ""
    if plan.not_the_best:
        text += f"This is {_plain(plan.not_the_best)}.\n\n"
    unloaded = plan.run.events.unloaded()
    for member in exported.members:
        if why := unloaded.get(member.generation):
            text += (
                f"At the end of its training step {member.step} did not come back into the model: {_plain(why)}.\n\n"
            )
    for member in exported.members:
        found = metrics_of(member)
        values = ", ".join(f"{name} {v if isinstance(v, str) else format_number(v)}" for name, v in found.items())
        text += f"- step {member.step}: {_plain(values) or 'not evaluated'}\n"
    if exported.average:
        text += "\nThese are of the single checkpoints, not of their average.\n"
    return text


def _averaged(average: Average) -> str:
    text = f"## Average\n\n{average.verdict()}\n\n{average.soup.capitalize()} soup: the mean of each tensor, in fp64.\n"
    if average.trials:
        text += f"\n| averaged steps | {_plain(average.measured)} |\n|---|---|\n"
        text += "".join(f"| {_join(trial.steps)} | {format_number(trial.value)} |\n" for trial in average.trials)
    return text


def _checked(plan: ExportPlan, exported: Export) -> str:
    verified = "The checkpoint's every byte was verified against its manifest before it was read.\n"
    first = (
        verified
        if plan.run.managed
        else "The checkpoint was not managed: nothing was missing in it, no digest told more.\n"
    )
    if exported.check is None:
        return f"{first}\n**The export itself was not checked** (`--no-check`).\n"
    return first + "\n" + "".join(f"- {_plain(line)}\n" for line in exported.check.lines())


def _made(plan: ExportPlan) -> str:
    return f"```console\n$ {_plain(command_of(plan), code=True)}\n```\n\nDigests of all files are in `{MARKER}`.\n"


def _join(values: Iterable[object]) -> str:
    return ", ".join(map(str, values))


def _plain(text: str, *, code: bool = False) -> str:
    """One line without control characters; outside of code without Markdown and HTML of its own."""
    line = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    if code:
        return line.replace("`", "'")
    return "".join(f"\\{c}" if c in "\\`*_[]<>|#" else c for c in line)
