"""`keepstep ui`: the local web page."""

from __future__ import annotations

import sys
import threading
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from pathlib import Path

import click

from keepstep.cli.command import Argument, command, format_option
from keepstep.cli.drawing.render import Output
from keepstep.errors import KeepstepError, SettingsError
from keepstep.paths import expanded

NEEDED = ("starlette", "uvicorn")


@command(
    "ui",
    examples=[
        ("keepstep ui runs/sft", "one run"),
        ("keepstep ui runs", "every run below a directory"),
        ("keepstep ui runs --port 8765 --no-open", "on a server; then: ssh -L 8765:127.0.0.1:8765 server"),
        ("keepstep ui runs/sft --allow-write", "prune, set the policy, have a training save or stop, from the page"),
    ],
)
@click.argument(
    "places",
    cls=Argument,
    metavar="[RUN|ROOT]...",
    nargs=-1,
    type=click.Path(path_type=Path),
    explanation="directory of a RUN, or one that runs lie below; the present directory when left out",
)
@click.option("--port", type=click.IntRange(0, 65535), default=0, show_default=True, help="0 finds a free one.")
@click.option("--no-open", is_flag=True, help="Don't open a browser; only print the link.")
@click.option(
    "--allow-write",
    is_flag=True,
    help="Let the page prune, set the policy, and have a training save or stop. Without it, it only reads.",
)
@format_option
def ui(places: tuple[Path, ...], port: int, no_open: bool, allow_write: bool, output: Output) -> None:
    """The first line is the link, with a token that lets a browser in. The server answers on this machine alone
    (127.0.0.1) and asks no other; Ctrl-C ends it.
    """
    missing = [name for name in NEEDED if find_spec(name) is None]
    if missing:
        hint = 'Install it: pip install "keepstep[web]"'
        raise SettingsError(f"the page needs {' and '.join(missing)}", hint=hint)
    from keepstep.web.server import PageServer, has_browser

    searched = [expanded(place) for place in places] or [Path()]
    server = PageServer(searched, port=port, writable=allow_write)
    if output.is_json:
        output.json_line({"url": server.link, "port": server.port, "writable": allow_write})
    else:
        click.echo(server.link)
    sys.stdout.flush()
    if not no_open:
        if has_browser():
            click.launch(server.link)
        else:
            output.note("There is no browser here: open the link yourself; from another machine see --help on --port.")
    # A slow disk holds up this word, and not the page.
    threading.Thread(target=_say_whether_empty, args=(searched, output), daemon=True).start()
    server.run()


def _say_whether_empty(places: Sequence[Path], output: Output) -> None:
    from keepstep.operations.seeing.finding import find_runs, no_run_below

    with suppress(KeepstepError, OSError):
        if not any(find_runs(place) for place in places):
            output.note(f"note: {no_run_below(places).message}; one that begins there is shown")
