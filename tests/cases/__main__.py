"""`python -m tests.cases`: the table, row by row; exit code 1 where a row is worse than stock."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tests.cases import table
from tests.cases.playing import play
from tests.cases.told import GROUPS
from tests.cases.verdict import Row, Verdict

ENGINES = ("fast", "stock")


def main(words: list[str] | None = None) -> int:
    """Play what was asked for; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.cases", description=__doc__)
    parser.add_argument("--engine", choices=ENGINES, help="one engine alone")
    parser.add_argument(
        "--only", metavar="NAME", action="append", help="situations whose name contains this; repeatable"
    )
    parser.add_argument("--format", choices=("text", "json", "markdown"), default="text")
    parser.add_argument("--jobs", type=int, default=2, help="situations at a time (default: 2)")
    parser.add_argument("--work", type=Path, help="an empty directory where runs and logs stay (default: thrown away)")
    asked = parser.parse_args(words)
    engines = (asked.engine,) if asked.engine else ENGINES
    wanted = [
        one for told in GROUPS.values() for one in told if not asked.only or any(w in one.name for w in asked.only)
    ]
    if not wanted:
        parser.error(f"no situation is called {' or '.join(asked.only)}")
    progress = sys.stdout if asked.format == "text" else sys.stderr
    rows: list[Row] = []
    for row in play(wanted, engines, asked.jobs, asked.work and asked.work.resolve()):
        rows.append(row)
        print(table.line(row), file=progress, flush=True)
    print(f"{len(wanted)} situations: {table.summary(rows)}", file=progress)
    if asked.format == "json":
        order = [one.name for one in wanted]
        print(table.as_json(sorted(rows, key=lambda row: order.index(row.name))))
    elif asked.format == "markdown":
        print(table.as_markdown(GROUPS, rows, engines), end="")
    return 1 if any(row.verdict is Verdict.WORSE for row in rows) else 0


if __name__ == "__main__":
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    sys.exit(main())
