"""Scripts for doctor's tests: what is wrong, and the same put right, for each rule."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from keepstep.operations.doctor import Finding, Options, Report, examine

TEMPLATE = """
import time
import keepstep
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM
from trl import SFTConfig, SFTTrainer

{before}
args = SFTConfig({arguments})
trainer = SFTTrainer(model=model, args=args)
{attach}
trainer.train({train})
"""
RANKED = 'eval_strategy="steps", eval_steps=100, save_steps=100, metric_for_best_model="eval_loss"'
"""Arguments with which no rule finds anything but the missing limit."""


@dataclass(frozen=True)
class Script:
    """The parts of a script that a rule looks at; `attach` holds the arguments of attach, None without it."""

    arguments: str = ""
    before: str = ""
    attach: str | None = None
    train: str = ""

    @property
    def text(self) -> str:
        attach = "" if self.attach is None else f"keepstep.attach(trainer, {self.attach})"
        return TEMPLATE.format(arguments=self.arguments, before=self.before, attach=attach, train=self.train)


@dataclass(frozen=True)
class Case:
    """What a rule speaks of, what it leaves alone, and what has to be known for that."""

    bad: Script
    good: Script
    options: dict[str, Any] = field(default_factory=dict)


def report(path: Path, script: Script | str, **options: Any) -> Report:
    """The report on a script's only config."""
    path.write_text(script if isinstance(script, str) else script.text)
    (only,) = examine(path, Options(**options))
    return only


def found(path: Path, script: Script | str, **options: Any) -> dict[str, Finding]:
    """Findings by id."""
    return {finding.id: finding for finding in report(path, script, **options).findings}


def S(arguments: str = "", **parts: Any) -> Script:
    return Script(arguments, **parts)


BIG = {"checkpoint_bytes": 10**18}
CASES = {
    "E101": Case(S('save_strategy="best", metric_for_best_model="eval_loss"'), S(RANKED)),
    "W102": Case(S("save_total_limit=3"), S(RANKED + ", save_total_limit=3")),
    "E103": Case(
        S('load_best_model_at_end=True, eval_strategy="steps", eval_steps=300, save_steps=500'),
        S('load_best_model_at_end=True, eval_strategy="steps", eval_steps=250, save_steps=500'),
    ),
    "W104": Case(
        S('load_best_model_at_end=True, eval_strategy="steps", eval_steps=2, save_steps=4'),
        S('load_best_model_at_end=True, eval_strategy="steps", eval_steps=2, save_steps=2'),
    ),
    "W105": Case(
        S('eval_strategy="steps", eval_steps=200, save_steps=300'),
        S('eval_strategy="steps", eval_steps=150, save_steps=300'),
    ),
    "E106": Case(
        S('save_strategy="best", eval_strategy="steps"'),
        S('save_strategy="best", eval_strategy="steps", metric_for_best_model="eval_loss"'),
    ),
    "W107": Case(
        S('metric_for_best_model="wer"'), S('metric_for_best_model="wer", greater_is_better=False')
    ),
    "W108": Case(
        S('metric_for_best_model="wer", greater_is_better=True'),
        S('metric_for_best_model="wer", greater_is_better=False'),
    ),
    "E110": Case(
        S('eval_strategy="steps"', attach='metric="vibes"'),
        S('eval_strategy="steps", metric_for_best_model="vibes"', attach='metric="vibes"'),
    ),
    "I111": Case(
        S('eval_strategy="steps", metric_for_best_model="vibes"', attach=""),
        S('eval_strategy="steps", metric_for_best_model="vibes", greater_is_better=True', attach=""),
    ),
    "W201": Case(S(""), S("save_total_limit=2")),
    "I202": Case(S("", attach=""), S("", attach='budget="200GB"')),
    "W203": Case(S(RANKED + ", save_total_limit=1"), S(RANKED + ", save_total_limit=2")),
    "W204": Case(S(RANKED, attach='keep="best:1,latest:1"'), S(RANKED, attach='keep="best:1,latest:2"')),
    "W205": Case(
        S('save_strategy="best", eval_strategy="steps", metric_for_best_model="eval_loss"'), S(RANKED)
    ),
    "E206": Case(S('"runs/a"'), S('"runs/a"'), BIG),
    "W207": Case(S('"runs/a", save_total_limit=10**9'), S('"runs/a", save_total_limit=2')),
    "W301": Case(
        S('save_strategy="epoch", num_train_epochs=1'), S('save_strategy="epoch", num_train_epochs=3')
    ),
    "W302": Case(S('save_strategy="no"'), S('save_strategy="steps"')),
    "E303": Case(
        S('resume_from_checkpoint="runs/a/checkpoint-3"'),
        S('resume_from_checkpoint="runs/a/checkpoint-3"', train="resume_from_checkpoint=args.resume_from_checkpoint"),
    ),
    "E304": Case(
        S("save_only_model=True", train="resume_from_checkpoint=True"), S("", train="resume_from_checkpoint=True")
    ),
    "W305": Case(S("save_only_model=True"), S("")),
    "E306": Case(S("enable_jit_checkpoint=True"), S("")),
    "W307": Case(S("seed=int(time.time())"), S("seed=17")),
    "W308": Case(
        S("", before="import torch; torch.manual_seed(time.time_ns())"),
        S("data_seed=3", before="import torch; torch.manual_seed(time.time_ns())"),
    ),
    "W309": Case(
        S("ignore_data_skip=True", train="resume_from_checkpoint=True"), S("", train="resume_from_checkpoint=True")
    ),
    "E405": Case(
        S('"runs/a"', before='first = SFTConfig("runs/a")'), S('"runs/b"', before='first = SFTConfig("runs/a")')
    ),
    "E406": Case(S('hub_token="hf_abc"'), S("")),
    "W501": Case(S("save_steps=500"), S("save_steps=50"), {"step_seconds": 60.0, "mtbf": 3600.0}),
    "W502": Case(
        S("save_steps=10"), S("save_steps=500"), {"step_seconds": 1.0, "checkpoint_bytes": 10 * 10**9}
    ),
    "W601": Case(
        S("", before="lora = LoraConfig(r=8)"),
        S("", before="lora = LoraConfig(r=8); model = get_peft_model(model, lora)"),
    ),
    "W602": Case(
        S("", before='model = AutoModelForCausalLM.from_pretrained("m", gguf_file="m.Q4_K_M.gguf")'),
        S("", before='model = AutoModelForCausalLM.from_pretrained("m")'),
    ),
}  # fmt: skip
"""Rules that a script alone shows; the others need a directory, a run or an environment."""
