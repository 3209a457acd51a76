"""`keepstep completion`: the script that a shell reads at its start."""

from __future__ import annotations

import click
from click.shell_completion import (
    BashComplete,
    FishComplete,
    ShellComplete,
    ZshComplete,
)

from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.drawing.render import Output

VARIABLE = "_KEEPSTEP_COMPLETE"
SHELLS: dict[str, type[ShellComplete]] = {"bash": BashComplete, "zsh": ZshComplete, "fish": FishComplete}


@command(
    "completion",
    examples=[
        ("keepstep completion bash >> ~/.bashrc", "bash: from the next shell on"),
        ("keepstep completion zsh >> ~/.zshrc", "zsh: below the line that calls compinit"),
        ("keepstep completion fish > ~/.config/fish/completions/keepstep.fish", "fish"),
    ],
)
@click.argument(
    "shell", cls=Argument, metavar="SHELL", type=click.Choice(list(SHELLS)), explanation="bash, zsh or fish"
)
@format_option
def completion(shell: str, output: Output) -> None:
    """Put it where the shell reads it at its start. Commands, options and directories complete, and so does REF: the
    steps, tags, best and latest of the RUN before it.
    """
    from keepstep.cli.main import main

    script = SHELLS[shell](main, {}, "keepstep", VARIABLE).source().strip()
    if output.is_json:
        output.json({"shell": shell, "script": script})
    else:
        click.echo(script)
