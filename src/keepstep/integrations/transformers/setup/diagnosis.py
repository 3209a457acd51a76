"""What doctor says of a live trainer at attach: its facts, and the lines that are logged."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Any

from keepstep.integrations.transformers.setup.arguments import plain
from keepstep.integrations.transformers.setup.options import Options
from keepstep.integrations.transformers.setup.policy import said_by_user
from keepstep.operations.doctor import Finding, Severity, judge
from keepstep.operations.doctor.facts import Facts, Model, Pace
from keepstep.operations.doctor.found import Where
from keepstep.operations.doctor.settings import DEFAULTS, Given, Settings
from keepstep.operations.doctor.surroundings import loggers_before, look_at, scheduler
from keepstep.retention import Policy

logger = logging.getLogger("keepstep")

_WORDS = ("eval_strategy", "save_strategy")


def say_findings(trainer: Any, policy: Policy, options: Options, checkpoint_bytes: Callable[[Any], int]) -> None:
    """Log what doctor finds in a trainer: a line for each error and warning, one for all hints. Raises nothing.

    `checkpoint_bytes` is asked for the size of one where that matters.
    """
    try:
        found = judge(facts_of(trainer, policy, options, checkpoint_bytes)).findings
    except Exception:  # advice must not keep anybody from training
        logger.debug("doctor could not examine this trainer", exc_info=True)
        return
    for finding in found:
        if finding.severity is not Severity.HINT:
            logger.warning("%s", _line(finding))
    hints = [f"{finding.what} [{finding.id}]" for finding in found if finding.severity is Severity.HINT]
    if hints:
        logger.info("%s", "; ".join(hints))


def facts_of(trainer: Any, policy: Policy, options: Options, checkpoint_bytes: Callable[[Any], int]) -> Facts:
    """Facts of a trainer as it was made, and of attach's options; `policy` is what was chosen of both."""
    directory = str(trainer.args.output_dir)
    return Facts(
        "trainer",
        Where(directory),
        _settings(trainer.args),
        attached=True,
        policy=policy,
        chosen=policy.metric,
        keep=_given(options.keep),
        metric=_given(options.metric),
        mode=_given(options.mode),
        budget=_given(options.budget),
        save_every=_given(options.save_every),
        resume_known=False,
        place=look_at(directory),
        places_before=loggers_before(directory),
        model=Model(lost_adapter=_lost_adapter(trainer.model)),
        pace=_pace(trainer, checkpoint_bytes),
    )


def _settings(args: Any) -> Settings:
    values = {name: getattr(args, name) for name in DEFAULTS if hasattr(args, name)}
    values |= {name: plain(values[name]) for name in _WORDS if name in values}
    # Where nobody said it, transformers has put its guess there.
    values["greater_is_better"] = {"max": True, "min": False, None: None}[said_by_user(args)]
    return Settings({name: Given(value) for name, value in values.items()})


def _pace(trainer: Any, checkpoint_bytes: Callable[[Any], int]) -> Pace:
    """Only a scheduler's grace period makes the size of a checkpoint matter here."""
    name, grace = scheduler(os.environ)
    return Pace(grace=grace, scheduler=name, checkpoint_bytes=checkpoint_bytes(trainer)) if name else Pace()


def _lost_adapter(model: Any) -> str:
    """PEFT's layers in a model that saves as if there were none."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    # The base model has a peft_config too once get_peft_model was called with it.
    if {"PeftModel", "PeftMixedModel"} & {kind.__name__ for kind in type(model).__mro__}:
        return ""
    if getattr(model, "_hf_peft_config_loaded", False):
        return ""
    if any(".lora_" in name for name, _ in model.named_parameters()):
        return f"the {type(model).__name__} has LoRA layers, and is no PeftModel: all of it is saved"
    return ""


def _given(value: Any) -> Given | None:
    return None if value is None else Given(value)


def _line(finding: Finding) -> str:
    end = "" if finding.what.endswith(("?", ".")) else "."
    return f"{finding.what}{end} {finding.fix} [{finding.id}]"
