"""`keepstep run`: a command under supervision."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from keepstep.cli.command import CHILD, command
from keepstep.errors import SettingsError
from keepstep.retention import parse
from keepstep.units import parse_duration, parse_size

NEVER = "never"


@command(
    "run",
    examples=[
        ("keepstep run --attach -- trl sft --config sft.yaml", "manage a stock command, and restart it where it dies"),
        ('keepstep run --attach --keep "best:3,latest:2" --budget 200GB -- python train.py', "with options of attach"),
        ("keepstep run --hang 1h --max-restarts 50 -- torchrun --nproc-per-node 2 train.py", "any command"),
        ("keepstep run --notify 'curl -d @- https://example.org/hook' -- python train.py", "events to somewhere else"),
    ],
    takes_command="COMMAND...",
)
@click.option("--attach", is_flag=True, help="Manage every transformers.Trainer, as attach(trainer) would.")
@click.option("--keep", metavar="SPEC", help="With --attach: what is kept, best:3,latest:2.")
@click.option("--metric", metavar="NAME", help="With --attach: what ranks.")
@click.option("--budget", metavar="SIZE", help="With --attach: what the checkpoints may take, 200GB.")
@click.option("--min-free", metavar="SIZE", help="With --attach: what stays free, 20GB.")
@click.option("--override", metavar="NAMES", help="With --attach: arguments that take their new value, learning_rate.")
@click.option("--save-every", metavar="TIME", help="With --attach: saves by the clock too, 20m.")
@click.option(
    "--max-restarts", type=click.IntRange(0), default=20, show_default=True, help="Restarts after crashes, in all."
)
@click.option(
    "--crash-loop",
    type=click.IntRange(1),
    default=3,
    show_default=True,
    help="Restarts without a new commit, in a row.",
)
@click.option("--backoff", metavar="TIME", default="5s", show_default=True, help="The first wait; it doubles.")
@click.option(
    "--hang", metavar="TIME", default="30m", show_default=True, help="No step for so long is a hang; or never."
)
@click.option("--grace", metavar="TIME", default="10m", show_default=True, help="To save and end, once told to stop.")
@click.option("--notify", metavar="CMD", help="Run by the shell at each event, which it gets as JSON on stdin.")
@click.option(
    "--run", "place", metavar="DIR", type=click.Path(path_type=Path), help="The run, where the hook can't tell it."
)
@click.option(
    "--log-dir", metavar="DIR", type=click.Path(path_type=Path), help="For the log, in place of below the run."
)
@click.option("--no-log", is_flag=True, help="No log: the command has this terminal, or these pipes, themselves.")
@click.option("--no-hook", is_flag=True, help="Nothing of ours runs inside of the command.")
@click.pass_context
def run(
    ctx: click.Context,
    *,
    attach: bool,
    max_restarts: int,
    crash_loop: int,
    backoff: str,
    hang: str,
    grace: str,
    notify: str | None,
    place: Path | None,
    log_dir: Path | None,
    no_log: bool,
    no_hook: bool,
    **options: str | None,
) -> None:
    """Behind -- stands any command. It is started again when it crashes, with a wait that doubles; what ends it is told
    apart: preempted (exit code 75, which is no crash), out of memory, a full disk, an error in the data, a refused
    resume, Ctrl-C, a hang. What comes again at the same step is not tried a third time. After some restarts without a
    new commit the run goes back one checkpoint, once, and then it is given up, with a report.

    With --attach every transformers.Trainer in it is managed, without a change to the script: train() goes on from the
    newest checkpoint where the script says nothing, or True. Other options of attach are taken from the environment:
    KEEPSTEP_ENGINE=stock. A trainer that can't be managed trains as before, and that is said. --no-hook, or
    `python -I`, keeps it out.

    The exit code is the command's: 0, 75 for saved and stopped, 1; 128 + n where signal n ended it. SIGTERM, SIGHUP,
    SIGUSR1 and SIGUSR2 are handed on; torchrun gives its workers 30 seconds after a SIGTERM, whatever --grace says.
    """
    from keepstep.supervision.restarts import Limits
    from keepstep.supervision.supervisor import Settings, Supervisor

    words: list[str] = ctx.meta.get(CHILD, [])
    if not words:
        raise SettingsError("there is no command", hint="Give it behind --: keepstep run --attach -- python train.py")
    given = {name: text for name, text in options.items() if text is not None}
    _check(given, attach=attach, hook=not no_hook)
    settings = Settings(
        tuple(words),
        attach=attach,
        hook=not no_hook,
        options=given,
        limits=Limits(max_restarts, crash_loop, parse_duration(backoff, "--backoff")),
        hang=None if hang == NEVER else parse_duration(hang, "--hang"),
        grace=parse_duration(grace, "--grace"),
        log=not no_log,
        log_directory=log_dir,
        run=place and Path(place).resolve(),
        notify=notify,
    )
    sys.stdout.flush()
    ctx.exit(Supervisor(settings).run())


def _check(options: dict[str, str], *, attach: bool, hook: bool) -> None:
    """Raises what `attach` would, before anything is started: inside it would be said, and nothing managed."""
    if attach and not hook:
        raise SettingsError("--attach is done by the hook, and --no-hook keeps that out", hint="Leave out one of them.")
    if options and not attach:
        name = next(iter(options)).replace("_", "-")
        raise SettingsError(f"--{name} is an option of attach", hint="Give --attach too.")
    if "keep" in options:
        parse(options["keep"])
    for name in ("budget", "min_free"):
        if name in options:
            parse_size(options[name], f"--{name.replace('_', '-')}")
    if "save_every" in options:
        parse_duration(options["save_every"], "--save-every")
