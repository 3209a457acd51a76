"""`keepstep watch`: a run as it trains, on one screen."""

from __future__ import annotations

import sys
import time

import click

from keepstep.cli.command import command, format_option, run_argument
from keepstep.cli.commands.events import NARROW, entry_of
from keepstep.cli.commands.ls import OTHERS, checkpoint_table
from keepstep.cli.drawing.chart import curve_lines, limits, mark_cells
from keepstep.cli.drawing.live import show_live
from keepstep.cli.drawing.plotting import FULL, SHADE
from keepstep.cli.drawing.render import Block, Line, Output
from keepstep.cli.drawing.tables import Span, Table, columns_of
from keepstep.cli.drawing.text import clean, count, redraws
from keepstep.model import Kind
from keepstep.operations.seeing.overview import Activity
from keepstep.operations.seeing.watching import View, Watcher
from keepstep.run import Run
from keepstep.units import format_number, format_size

WIDEST = 120
MOST_NAMES = 8
"""Names of metrics that are offered in place of one that was not logged."""
LOW = 32
"""Lines below which a terminal gets a lower curve, fewer events and fewer checkpoints."""
_STYLES = {
    "training": "bold green",
    "finished": "bold cyan",
    "stopped": "bold yellow",
    "failed": "bold red",
    "killed": "bold red",
    "new": "dim",
}
_MARKS = {"gone": "·", "weights": "○", "full": "●", "best": "★"}
_ASCII_MARKS = {"gone": ".", "weights": "o", "full": "O", "best": "*"}
_MARK_STYLES = {"gone": "dim", "weights": "blue", "full": "", "best": "bold green"}
_MARK_TEXTS = {"best": "best", "full": "kept", "weights": "weights only", "gone": "removed"}


@command(
    "watch",
    examples=[
        ("keepstep watch runs/sft", "state, curve, checkpoints, disk and last events, until q or Ctrl-C"),
        ("keepstep watch runs/sft --metric eval_loss --interval 10", "another curve, looked at every ten seconds"),
        ("keepstep watch runs/sft | tee watch.txt", "as text, then a line for each event while it trains"),
        ("keepstep watch runs/sft --once > report.txt", "one look, as text"),
    ],
)
@run_argument
@click.option("--metric", metavar="NAME", help="Draw this metric; the training loss by default.")
@click.option(
    "--interval", type=click.FloatRange(min=0.1), default=2.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="One look, then end.")
@format_option
def watch(run: Run, metric: str | None, interval: float, once: bool, output: Output) -> None:
    """Looks on and takes no lock: a training is not disturbed. Into a pipe it prints what there is, then a line for
    each event, and ends when the training does; as JSON one look.
    """
    watcher = Watcher(run, metric=metric)
    if output.is_json:
        output.json(watcher.look().to_json())
        return
    if once or not redraws(sys.stdout):
        _tell(run, watcher, interval, output, once=once)
        return
    # With a height it is for a terminal, whatever the format says.
    show_live(output, lambda height: frame(run, watcher.look(), output, height), interval)


def _tell(run: Run, watcher: Watcher, interval: float, output: Output, *, once: bool) -> None:
    """Where nothing is redrawn: all that there is, then what happens, a line each, and at last how it ended."""
    view = watcher.look()
    output.frame(frame(run, view, output, None))
    if once or view.activity is not Activity.TRAINING:
        return
    while view.activity is Activity.TRAINING:
        sys.stdout.flush()
        time.sleep(interval)
        view = watcher.look()
        for event in view.news:
            output.entry(*entry_of(event))
    output.frame([_headline(run, view)])


def frame(run: Run, view: View, output: Output, height: int | None) -> list[Block]:
    """The blocks of one look; of too many checkpoints for `height` lines the newest."""
    width = min(output.width, WIDEST) if output.is_rich else 80
    blocks: list[Block] = [_headline(run, view)]
    low = height is not None and height < LOW
    blocks += _curve(view, width, 3 if low else 5, output.draws_blocks)
    below: list[Block] = [
        Line(),
        _disk(view, width, output.draws_blocks),
        *_mirror(view),
        *_events(view, output, 3 if low else 6, cut=height is not None),
    ]
    if view.listing.rows:
        table = checkpoint_table(view.listing).informative()
        table = table.only([index for index, column in enumerate(table.columns) if column.name != OTHERS])
        room = None if height is None else height - len(blocks) - len(below) - 4
        blocks += [Line(), *_newest(table, output, room)]
    blocks += below
    if height is not None:
        blocks = [*blocks, Line((("q quits", "dim"),))]
    return blocks


def _headline(run: Run, view: View) -> Line:
    spans: list[Span] = [(view.activity, _STYLES[view.activity])]
    if view.step is not None:
        total = f" of {view.max_steps:,} ({min(view.step / view.max_steps, 1):.0%})" if view.max_steps else ""
        spans.append(f"  step {view.step:,}{total}")
    return Line(((str(run.path), "bold"), "  "), tuple(spans))


def _curve(view: View, width: int, height: int, blocks: bool) -> list[Block]:
    bounds_of_values = limits(view.curve)
    if bounds_of_values is None or view.metric is None:
        return [Line(), Line(((_no_curve(view), "dim"),))]
    low, high = (format_number(value) for value in bounds_of_values)
    margin = max(len(low), len(high)) + 2
    room = max(width - margin, 8)
    steps = [step for step, _ in view.curve] + [row.checkpoint.step for row in view.listing.rows]
    bounds = min(steps), max(steps)
    rows = curve_lines(view.curve, bounds, room, height, blocks=blocks)
    last = view.curve[-1]
    found: list[Block] = [
        Line(),
        Line(((clean(view.metric), "bold"), f"  {format_number(last[1])} at step {last[0]:,}")),
    ]
    for number, text in enumerate(rows):
        label = high if number == 0 else low if number == len(rows) - 1 else ""
        found.append(Line(((f"{label:>{margin - 2}}  ", "dim"), (text.rstrip(), "cyan"))))
    found.append(Line((" " * margin, *_marks(view, bounds, room, blocks))))
    first, final = f"{bounds[0]:,}", f"{bounds[1]:,}"
    found.append(Line(((" " * margin + first + f"{final:>{max(room - len(first), len(final) + 1)}}", "dim"),)))
    found.append(_legend(view, blocks))
    return found


def _no_curve(view: View) -> str:
    if view.metric is None:
        return "Nothing to draw was logged" + ("" if view.activity == "finished" else " yet")
    if view.curve:
        return f"no value of '{clean(view.metric)}' is a finite number"
    others = [clean(name) for name in view.metrics if name != view.metric]
    more = [f"{len(others) - MOST_NAMES} more"] if len(others) > MOST_NAMES else []
    there = f"; there is {', '.join(others[:MOST_NAMES] + more)}" if others else ""
    if view.metric in view.metrics:
        return f"no value of '{clean(view.metric)}' lies on the present course{there}"
    return f"no metric '{clean(view.metric)}' was logged{there}"


def _kinds(view: View) -> dict[int, str]:
    """What stands for each step, the most important last."""
    kinds = dict.fromkeys(view.gone, "gone")
    rows = sorted(view.listing.rows, key=lambda row: (row.best, row.checkpoint.kind is Kind.FULL))
    for row in rows:
        kinds.pop(row.checkpoint.step, None)
        whole = "full" if row.checkpoint.kind is Kind.FULL else "weights"
        kinds[row.checkpoint.step] = "best" if row.best else whole
    return kinds


def _marks(view: View, bounds: tuple[int, int], width: int, blocks: bool) -> list[Span]:
    signs = _MARKS if blocks else _ASCII_MARKS
    cells = mark_cells(_kinds(view), bounds, width)
    return [
        (signs[cells[column]], _MARK_STYLES[cells[column]]) if column in cells else " "
        for column in range(max(cells, default=-1) + 1)
    ]


def _legend(view: View, blocks: bool) -> Line:
    signs, shown = _MARKS if blocks else _ASCII_MARKS, set(_kinds(view).values())
    return Line((("  ".join(f"{signs[kind]} {text}" for kind, text in _MARK_TEXTS.items() if kind in shown), "dim"),))


def _newest(table: Table, output: Output, room: int | None) -> list[Block]:
    """The table's last rows, as many as there is room for, and how many more there are."""
    if room is None:
        return [table]
    fitted = table.fitted(output.width)
    taken, first = 0, len(table.rows)
    while first > 0:
        taken += _height_of(fitted, first - 1, output.width)
        if taken > room - 2 and first < len(table.rows):
            break
        first -= 1
    shown: list[Block] = [Table(table.columns, table.rows[first:])]
    if first:
        shown.append(Line(((f"and {count(first, 'older checkpoint')}: keepstep ls", "dim"),)))
    return shown


def _height_of(table: Table, row: int, width: int) -> int:
    """Lines that a row takes at least, where the columns that fold share what the others leave."""
    needs = [table.needs(index) for index in range(len(table.columns))]
    spare = max(width - sum(needs) - 2 * (len(needs) - 1), 0)
    folding = [index for index, column in enumerate(table.columns) if column.folds]
    widest = {index: needs[index] + (spare // len(folding) if folding else 0) for index in range(len(needs))}
    return max(
        (
            sum(-(-columns_of(line) // max(widest[index], 1)) or 1 for line in cell.lines) or 1
            for index, cell in enumerate(table.rows[row])
        ),
        default=1,
    )


def _disk(view: View, width: int, blocks: bool) -> Line:
    room = view.room
    kept, free = view.listing.size_bytes, room.free_bytes
    text = f"{format_size(kept)} kept, {format_size(free)} of {format_size(room.total_bytes)} free"
    budget, taken = view.listing.limits.budget, view.listing.plan.taken_bytes
    if budget is not None:
        text = f"{format_size(taken)} of a budget of {format_size(budget)}, {format_size(free)} free"
    length = max(min(width - len(text) - 8, 30), 8)
    share = taken / budget if budget is not None else 1 - free / room.total_bytes if room.total_bytes else 0
    used = min(round(share * length), length)
    full, shade = (FULL, SHADE) if blocks else ("#", ".")
    style = "bold red" if room.total_bytes and free < room.total_bytes * 0.05 else "cyan"
    return Line((("Disk  ", "bold"),), ((full * used, style), (shade * (length - used), "dim"), f"  {text}"))


def _mirror(view: View) -> list[Block]:
    if view.mirror is None:
        return []
    style = "" if view.mirror.up else "bold red"
    return [Line((("Mirror  ", "bold"),), ((clean(view.mirror.text), style),))]


def _events(view: View, output: Output, most: int, *, cut: bool) -> list[Block]:
    shown = view.events[-most:]
    if not shown:
        return []
    entries = [entry_of(event, short=output.width < NARROW) for event in shown]
    if cut:
        # One line each: what happened is told in full by `keepstep events`.
        entries = [(head, _cut(head, body, output.width)) for head, body in entries]
    return [Line(), Line((("Last events", "bold"),)), *(Line(tuple(head), tuple(body)) for head, body in entries)]


def _cut(head: list[Span], body: list[Span], width: int) -> list[Span]:
    taken = sum(columns_of(clean(span if isinstance(span, str) else span[0])) for span in head)
    text = clean(body[0] if isinstance(body[0], str) else body[0][0])
    room = max(width - taken, 0)
    while columns_of(text) > room:
        text = text[: max(room - 1, 0)] if len(text) > room else text[:-1]
        if columns_of(text) <= room - 1 or not text:
            return [text + ("…" if room else "")]
    return [text]
