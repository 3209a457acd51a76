"""Sizes, durations and parameter counts as arguments of commands; options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

from keepstep.retention import Metric, Policy, default_policy, parse
from keepstep.units import parse_duration, parse_parameters, parse_size

F = TypeVar("F", bound=Callable[..., Any])


class Quantity(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    """A number with a unit, read by one of the parsers of `keepstep.units`."""

    def __init__(self, name: str, parse: Callable[[str], float]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return self._parse(value) if isinstance(value, str) else value


def _rate(text: str) -> float:
    return parse_size(text.strip().removesuffix("/s"))


SIZE = Quantity("size", parse_size)
DURATION = Quantity("duration", parse_duration)
PARAMETERS = Quantity("count", parse_parameters)
RATE = Quantity("rate", _rate)


def schedule_options(*, required: bool) -> Callable[[F], F]:
    """`--steps`, `--save-every`, `--eval-every`, `--keep`, `--limit` and `--step-time`."""
    number = click.IntRange(min=1)

    def decorate(function: F) -> F:
        for option in reversed(
            (
                click.option("--steps", type=number, required=required, help="Optimizer steps of the whole training."),
                click.option("--save-every", type=number, required=required, help="Steps between two saves."),
                click.option("--eval-every", type=number, help="Steps between two evaluations; none by default."),
                click.option("--keep", metavar="SPEC", help="Rules, joined by commas, such as best:3,latest:2."),
                click.option(
                    "--limit",
                    type=number,
                    help="save_total_limit as an attached trainer takes it: the best so many and the newest; "
                    "the newest so many where nothing is evaluated.",
                ),
                click.option("--step-time", type=DURATION, help="Time of one optimizer step, such as 2.5s."),
            )
        ):
            function = option(function)
        return function

    return decorate


def policy_of(keep: str | None, limit: int | None, metric: Metric | None) -> Policy:
    """The policy of `--keep` or `--limit`; everything is kept without either. Raises PolicyError."""
    if keep is not None and limit is not None:
        raise click.UsageError("--keep and --limit are two ways to say the same: give one.")
    if keep is None:
        return default_policy(limit, metric)
    if metric is None and any(rule.needs_metric for rule in parse(keep)):
        raise click.UsageError(f"{keep} ranks checkpoints, and nothing is evaluated: add --eval-every.")
    return Policy.from_spec(keep, metric)
