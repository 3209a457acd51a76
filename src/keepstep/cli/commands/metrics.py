"""`keepstep metrics`: the numbers of runs for Prometheus."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from keepstep.cli.command import Argument, command
from keepstep.cli.drawing.text import clean
from keepstep.cli.many import places_of, root_option
from keepstep.errors import SettingsError, StorageError
from keepstep.operations.seeing.finding import find_runs, no_run_below
from keepstep.prometheus import Address, parse_target, registry, serve, text_of, write_file
from keepstep.units import parse_duration

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry


def _address(ctx: click.Context, param: click.Parameter, value: str | None) -> Address | None:
    target = None if value is None else parse_target(value)
    if isinstance(target, Path):
        raise SettingsError(f"--listen is {value!r}", hint="It is an address such as 127.0.0.1:9400 or :9400.")
    return target


def _interval(ctx: click.Context, param: click.Parameter, value: str | None) -> float | None:
    seconds = None if value is None else parse_duration(value)
    if seconds is not None and seconds < 1:
        raise SettingsError(f"--interval is {value!r}", hint="One second is the shortest.")
    return seconds


@command(
    "metrics",
    examples=[
        ("keepstep metrics runs/sft", "print them once"),
        ("keepstep metrics runs --listen :9400", "serve those of all runs below a directory, until Ctrl-C"),
        ("keepstep metrics runs --textfile /var/lib/node_exporter/keepstep.prom", "write them once, as from cron"),
        ("keepstep metrics runs --textfile sft.prom --interval 30s", "write them again and again: in a SLURM job"),
    ],
)
@click.argument(
    "paths",
    cls=Argument,
    metavar="RUN_OR_ROOT...",
    nargs=-1,
    type=click.Path(),
    explanation="directories of runs, or directories below which runs lie, or patterns of their names",
)
@root_option
@click.option(
    "--listen",
    metavar="[HOST]:PORT",
    callback=_address,
    help="Serve http://HOST:PORT/metrics; without a HOST for this machine alone.",
)
@click.option(
    "--textfile",
    metavar="FILE.prom",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Write a file that a node exporter picks up.",
)
@click.option(
    "--interval", metavar="TIME", callback=_interval, help="With --textfile: write it every TIME, until Ctrl-C."
)
def metrics(
    *,
    paths: tuple[str, ...],
    roots: tuple[str, ...],
    listen: Address | None,
    textfile: Path | None,
    interval: float | None,
) -> None:
    """Saves, what they cost, failures, verification, bytes, free space, budget: from the event logs and manifests, of
    runs that train or are over. A training exports its own with attach(trainer, prometheus=":9400"). docs/metrics.md
    lists them.
    """
    _check_choice(listen, textfile, interval)
    # Each time anew: a pattern, like a directory, may name more of them later.
    count = len(_look(places_of(paths, roots)))
    measured = registry(lambda: _look(places_of(paths, roots)))
    if listen is not None:
        _listen(measured, listen, count)
    elif textfile is not None:
        _write(measured, textfile, interval)
    else:
        click.echo(text_of(measured), nl=False)


def _check_choice(listen: Address | None, textfile: Path | None, interval: float | None) -> None:
    if listen is not None and textfile is not None:
        raise click.UsageError("--listen and --textfile: choose one.")
    if interval is not None and textfile is None:
        raise click.UsageError("--interval goes with --textfile.")
    if textfile is not None and textfile.suffix != ".prom":
        raise click.UsageError(f"--textfile {clean(str(textfile))}: node exporters read files called *.prom.")


def _look(places: Sequence[Path]) -> list[Path]:
    """The runs in and below these directories. Raises RunNotFound when there is none."""
    found = list(dict.fromkeys(run for place in places for run in find_runs(place)))
    if not found:
        raise no_run_below(places)
    return found


def _listen(measured: CollectorRegistry, address: Address, count: int) -> None:
    try:
        found, stop = serve(measured, address)
    except (OSError, OverflowError) as error:
        raise StorageError(f"can't listen at {address}: {error}", hint="Choose another port: --listen :0") from error
    click.echo(f"{found}  ({count} {'run' if count == 1 else 'runs'}; Ctrl-C ends it)")
    try:
        while True:
            time.sleep(3600)
    finally:
        stop()


def _write(measured: CollectorRegistry, file: Path, interval: float | None) -> None:
    while True:
        try:
            write_file(measured, file)
        except OSError as error:
            raise StorageError(
                f"{file} can't be written: {error.strerror or error}", hint="Its directory must be there, and writable."
            ) from error
        if interval is None:
            return
        time.sleep(interval)
