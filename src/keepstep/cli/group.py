"""A click group that imports a command only when it is called, and turns errors into lines and exit codes."""

from __future__ import annotations

import atexit
import gc
import sys
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from keepstep.cli.failures import exit_code_of, interrupts
from keepstep.cli.registry import Entry

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


class LazyGroup(click.Group):
    """Knows its commands by name and sentence; `--help` imports none of them."""

    def __init__(self, *args: Any, entries: Mapping[str, Entry], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.entries = entries

    def main(self, *args: Any, **kwargs: Any) -> Any:
        _seek_no_garbage()
        return super().main(*args, **kwargs)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.entries)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.entries:
            return None
        module = self.entries[cmd_name].module or f"keepstep.cli.commands.{cmd_name}"
        return getattr(import_module(module), cmd_name.replace("-", "_"))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in self.entries and not name.startswith("-"):
            import difflib

            near = difflib.get_close_matches(name, self.entries, n=1)
            meant = f" Did you mean {near[0]!r}?" if near else ""
            raise click.UsageError(f"There is no command {name!r}.{meant}", ctx)
        return super().resolve_command(ctx, args)

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        names = [name for name in self.entries if name.startswith(incomplete)]
        found = [CompletionItem(name, help=self.entries[name].sentence) for name in names]
        # Past click's own list of commands, which would import each of them.
        return found + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.sentence) for name, entry in self.entries.items()])

    def invoke(self, ctx: click.Context) -> Any:
        with interrupts() as interrupted:
            try:
                result = super().invoke(ctx)
                # A reader that went away is noticed here, not in the interpreter's last breath.
                sys.stdout.flush()
            except (click.exceptions.Exit, click.ClickException):
                raise
            except (Exception, KeyboardInterrupt) as error:
                code = exit_code_of(error)
                if code is None and interrupted():
                    code = exit_code_of(KeyboardInterrupt())
                if code is None:
                    raise
                ctx.exit(code)
            return result


@cache
def _seek_no_garbage() -> None:
    """A command imports 200 modules, and a list of 10,000 checkpoints makes a million objects and no garbage: looking
    for it takes a tenth of the one's time, a quarter of the other's, and as much again at the end.
    """
    gc.set_threshold(200_000)
    atexit.register(gc.freeze)
