"""What all commands share: examples in the help, documented arguments, `--format`."""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import click

from keepstep.cli.drawing.render import Output
from keepstep.cli.drawing.text import clean
from keepstep.cli.registry import COMMANDS
from keepstep.errors import SettingsError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from keepstep.run import Run

F = TypeVar("F", bound=Callable[..., Any])
Example = tuple[str, str]
"""A command line, and what it is for."""

NOT_MANAGED = "not managed: no digests, and nothing in it is changed"
READ_MIRRORS = frozenset({"ls", "show", "best", "resume", "export", "du", "verify", "events"})
"""Commands that take a mirror for a run."""
CHILD = "keepstep.child"
"""Where a context's `meta` has the words of the command that was given behind `--`."""
REFERENCES = "best, latest, a step (300 or step:300), gen:N, a tag, a path, or previous:ID"


class Command(click.Command):
    """A command whose help explains its arguments and ends with examples."""

    def __init__(self, *args: Any, examples: Sequence[Example] = (), takes_command: str = "", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.examples = examples
        self.takes_command = takes_command

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if self.takes_command and "--" in args:
            place = args.index("--")
            args, ctx.meta[CHILD] = args[:place], args[place + 1 :]
        return super().parse_args(ctx, args)

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return super().collect_usage_pieces(ctx) + ([f"-- {self.takes_command}"] if self.takes_command else [])

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        arguments = [(p.metavar or "", p.explanation) for p in self.params if isinstance(p, Argument)]
        if arguments:
            with formatter.section("Arguments"):
                formatter.write_dl(arguments)
        super().format_options(ctx, formatter)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Examples"):
            for line, purpose in self.examples:
                formatter.write(f"{'':>{formatter.current_indent}}{line}\n")
                formatter.write(f"{'':>{formatter.current_indent + 4}}{purpose}\n")


class Group(Command, click.Group):
    """A command of several commands, each with its own help."""


class Argument(click.Argument):
    """A positional argument with an explanation."""

    def __init__(self, declarations: Sequence[str], explanation: str = "", **attributes: Any) -> None:
        super().__init__(declarations, **attributes)
        self.explanation = explanation


class _RunType(click.ParamType):  # pyright: ignore[reportMissingTypeArgument]
    name = "run"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Run:
        return opened(value)

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [CompletionItem(incomplete, type="dir")]


def opened(value: str | os.PathLike[str]) -> Run:
    """The run in a directory, or in a mirror, as it was typed; what is odd about it is said on stderr.

    Raises what `open_anywhere` raises.
    """
    from keepstep.mirror import open_anywhere

    run = open_anywhere(value)
    if run.remote and click.get_current_context().info_name not in READ_MIRRORS:
        run.must_be_managed()
    for odd in (*(() if run.managed else (NOT_MANAGED,)), *run.oddities()):
        click.echo(clean(f"keepstep: {run.address}: {odd}"), err=True)
    if run.rebuilt is not None:
        click.echo(clean(f"keepstep: {run.rebuilt}"), err=True)
    return run


def refuse_addresses(words: Sequence[str]) -> None:
    """Raises SettingsError where a mirror is named to a command that searches directories."""
    if address := next((word for word in words if "://" in word), ""):
        raise SettingsError(
            f"{address} is no directory of this machine, and this looks at those",
            hint=f"keepstep ls, show, du, verify, resume, best and export read a mirror: keepstep ls {address}",
        )


def command(
    name: str,
    *,
    examples: Sequence[Example],
    cls: type[Command] = Command,
    takes_command: str = "",
    of: str | None = None,
) -> Callable[[Callable[..., Any]], Command]:
    """Make a function the command of that name, `of` a group of them where one is named; the registry's sentence stands
    before its docstring. With `takes_command`, as its usage shows it, another command stands behind `--`.
    """
    entry = COMMANDS[name] if of is None else COMMANDS[of].parts[name]
    sentence = entry if isinstance(entry, str) else entry.sentence

    def decorate(function: Callable[..., Any]) -> Command:
        text = f"{sentence}\n\n{inspect.cleandoc(function.__doc__ or '')}"
        more: Any = {"examples": examples, "takes_command": takes_command}
        return click.command(name, cls=cls, help=text, short_help=sentence, **more)(function)

    return decorate


def group(name: str, *, examples: Sequence[Example]) -> Callable[[Callable[..., Any]], Group]:
    """Make a function the group of that name; its commands are added to it."""

    def decorate(function: Callable[..., Any]) -> Group:
        made = command(name, examples=examples, cls=Group)(function)
        assert isinstance(made, Group)
        return made

    return decorate


def run_argument(function: F) -> F:
    """RUN, opened."""
    return click.argument(
        "run", cls=Argument, metavar="RUN", type=_RunType(), explanation="directory of a run: the trainer's output_dir"
    )(function)


def reference_argument(*, required: bool = True) -> Callable[[F], F]:
    """REF, as it was typed."""
    return click.argument(
        "reference",
        cls=Argument,
        metavar="REF" if required else "[REF]",
        required=required,
        explanation=REFERENCES + ("" if required else "; all checkpoints when left out"),
        shell_complete=complete_reference,
    )


def complete_reference(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """What a shell offers for REF; the module that knows is imported only then."""
    from keepstep.cli.completing import references_of

    return references_of(ctx, incomplete)


def format_option(function: F) -> F:
    """`--format`, as an `Output`."""
    return click.option(
        "--format",
        "output",
        type=click.Choice(["auto", "human", "json", "agent"]),
        default="auto",
        show_default=True,
        callback=_make_output,
        help="auto: tables on a terminal, aligned text into a pipe; human: tables always; json: for programs; "
        "agent: tab-separated lines under a heading.",
    )(function)


def _make_output(ctx: click.Context, param: click.Parameter, value: Any) -> Output:
    return Output(value)
