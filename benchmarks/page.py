"""What `keepstep ui` takes until its page is drawn, follows a training, and costs: `python -m benchmarks.page --help`.

A real server and a headless Chromium on one machine. Needs the development group and an installed Chromium.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from benchmarks.saves.machine import describe, sentence
from playwright.sync_api import Browser, Page, sync_playwright
from tests.web import browser, runs
from tests.web.browser import DRAWN, Ui

VIEWS = {
    "runs": "#/runs",
    "run": "",
    "disk": "/disk",
    "policy": "/policy",
    "health": "/health",
    "checkpoint": "/checkpoint/1",
}
OBSERVE = """
  window.seen = {shift: 0, blocked: 0, longest: 0};
  new PerformanceObserver(list => list.getEntries().forEach(one => {
    if (!one.hadRecentInput) seen.shift += one.value;
  })).observe({type: 'layout-shift', buffered: true});
  new PerformanceObserver(list => list.getEntries().forEach(one => {
    seen.blocked += Math.max(0, one.duration - 50);
    seen.longest = Math.max(seen.longest, one.duration);
  })).observe({type: 'longtask', buffered: true});
"""
READ = """() => {
  const [nav] = performance.getEntriesByType('navigation');
  const files = performance.getEntriesByType('resource');
  const at = name => performance.getEntriesByName(name)[0]?.startTime ?? null;
  return {
    first_byte_ms: nav.responseStart - nav.requestStart,
    first_paint_ms: at('first-paint'),
    first_contentful_paint_ms: at('first-contentful-paint'),
    curves_drawn_ms: at('keepstep.curves'),
    blocked_ms: seen.blocked,
    longest_task_ms: seen.longest,
    layout_shift: seen.shift,
    requests: 1 + files.length,
    bytes: nav.transferSize + files.reduce((sum, one) => sum + one.transferSize, 0),
  };
}"""
WATCH = """() => {
  window.when = {};
  const look = () => {
    const texts = [document.querySelector('[data-live=step]')?.textContent];
    for (const link of document.querySelectorAll('a[data-row]')) texts.push('row ' + link.textContent.trim());
    for (const text of texts) if (text && !(text in when)) when[text] = Date.now();
  };
  look();
  new MutationObserver(look).observe(document.body, {subtree: true, childList: true, characterData: true});
}"""


class Figures:
    """Values by name, in the order in which they came."""

    def __init__(self) -> None:
        self.by_name: dict[str, list[float]] = {}

    def add(self, name: str, value: float | None) -> None:
        """One more value; what was not measured is left out."""
        if value is not None:
            self.by_name.setdefault(name, []).append(value)

    def lines(self) -> Iterator[str]:
        """Median, least and greatest of each, in units by the ends of the names."""
        for name, values in self.by_name.items():
            middle, low, high = (shown(name, value) for value in (statistics.median(values), min(values), max(values)))
            yield f"{name:<58} {middle:>12}  [{low}, {high}]  n={len(values)}"


def shown(name: str, value: float) -> str:
    """A value with the unit that its name ends with."""
    for end, (factor, unit, digits) in {
        "_ms": (1, "ms", 0),
        "_s": (1, "s", 2),
        "bytes": (1e-3, "kB", 0),
        "shift": (1, "", 4),
    }.items():
        if name.endswith(end):
            return f"{value * factor:,.{digits}f} {unit}".strip()
    return f"{value:,.0f}"


@contextmanager
def window(chromium: Browser, ui: Ui) -> Iterator[Page]:
    """A window with an empty cache that was let in, and has asked the server for nothing else."""
    context = chromium.new_context(viewport={"width": 1280, "height": 860})
    context.set_default_timeout(120_000)
    page = context.new_page()
    page.add_init_script(OBSERVE)
    context.request.get(ui.link)
    try:
        yield page
    finally:
        context.close()


def load(page: Page, address: str, ready: str) -> dict[str, float]:
    """Go there as a fresh page, wait for what is to be drawn and for what it shifts, and read the browser's figures."""
    page.goto("about:blank")
    page.goto(address)
    page.wait_for_selector(ready)
    page.wait_for_timeout(400)
    return page.evaluate(READ)


def loading(chromium: Browser, run: Path, rounds: int, figures: Figures) -> None:
    """A page's first sight and curves: of a server that was just started, of a warm one, and once more in a browser."""
    for _ in range(rounds):
        began = time.monotonic()
        with browser.serving(run) as ui:
            figures.add("server: from its start to its link_s", time.monotonic() - began)
            address = ui.base  # one run alone: the page goes to it by itself
            with window(chromium, ui) as page:
                keep(figures, "cold server", load(page, address, DRAWN))
            figures.add("server: resident after one page bytes", memory(ui, "VmRSS"))
            with window(chromium, ui) as page:
                keep(figures, "warm server", load(page, address, DRAWN))
                keep(figures, "warm server, files cached", load(page, address, DRAWN))
            figures.add("server: most resident bytes", memory(ui, "VmHWM"))


def keep(figures: Figures, name: str, found: dict[str, float]) -> None:
    for what, value in found.items():
        figures.add(f"{name}: {what}", value)


def viewing(chromium: Browser, run: Path, figures: Figures) -> None:
    """What each view transfers with an empty cache."""
    with browser.serving(run.parent) as ui:
        key = next(iter(ui.keys().values()))
        for name, end in VIEWS.items():
            with window(chromium, ui) as page:
                address = f"{ui.base}{end}" if end.startswith("#") else f"{ui.base}#/run/{key}{end}"
                found = load(page, address, "main[aria-busy=false] > .view")
                for what in ("bytes", "requests", "blocked_ms", "layout_shift"):
                    figures.add(f"view {name}: {what}", found[what])


def following(chromium: Browser, root: Path, times: int, figures: Figures) -> None:
    """From the return of the call that logs a point, or saves, until it is in the page."""
    with runs.training(root / "live", "best:3,latest:2", max_steps=100_000) as trained, browser.serving(root) as ui:
        trained.go(100)
        with window(chromium, ui) as page:
            load(page, f"{ui.base}#/run/{ui.keys()['live']}", DRAWN)
            page.wait_for_selector("[data-connection=live]")
            page.evaluate(WATCH)
            for number in range(times):
                until = trained.step + 10
                trained.go(until, save_every=10**9)
                figures.add("live: from a logged point to the page_ms", seen(page, f"{until:,} of 100,000"))
                time.sleep(0.37 + number % 5 * 0.11)  # at all places between two looks of the server
                trained.save()
                figures.add("live: from a commit to the page_ms", seen(page, f"row {trained.step:,}"))
                time.sleep(0.41 + number % 7 * 0.07)


def seen(page: Page, text: str) -> float:
    """Milliseconds from now until a text is in the page."""
    began = time.time() * 1000
    page.wait_for_function("text => text in window.when", arg=text, polling=20)
    return max(0.0, page.evaluate("text => window.when[text]", text) - began)


def idling(chromium: Browser, run: Path, seconds: float, figures: Figures) -> None:
    """Processor time of the server while nothing happens: with no page open, and with one."""
    with browser.serving(run) as ui:
        figures.add("idle, no page: processor per minute_s", spent(ui, seconds))
        with window(chromium, ui) as page:
            load(page, ui.base, DRAWN)
            time.sleep(5)
            figures.add("idle, a page open: processor per minute_s", spent(ui, seconds))
            figures.add("idle, a page open: resident bytes", memory(ui, "VmRSS"))


def spent(ui: Ui, seconds: float) -> float:
    """Seconds of processor time in a minute."""

    def now() -> float:
        fields = Path(f"/proc/{ui.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    before = now()
    time.sleep(seconds)
    return (now() - before) * 60 / seconds


def memory(ui: Ui, field: str) -> float:
    """Bytes, as the system counts them."""
    lines = Path(f"/proc/{ui.process.pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def measure(options: argparse.Namespace, root: Path, say: Callable[[str], None]) -> Figures:
    figures = Figures()
    say(f"a run of {options.checkpoints:,} checkpoints and {options.points:,} points")
    run = root / "large" / "run"
    runs.large(run, options.checkpoints, options.points)
    with sync_playwright() as playwright:
        chromium = browser.launch(playwright)
        parts: dict[str, Callable[[], None]] = {
            "loading": lambda: loading(chromium, run, options.rounds, figures),
            "views": lambda: viewing(chromium, run, figures),
            "live": lambda: following(chromium, root / "training", options.times, figures),
            "idle": lambda: idling(chromium, run, options.idle, figures),
        }
        for name, part in parts.items():
            if not options.only or name in options.only:
                say(f"{name} (load {os.getloadavg()[0]:.1f})")
                part()
        chromium.close()
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print medians with the least and the greatest value."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="servers that are started, and pages loaded from each")
    parser.add_argument("--times", type=int, default=20, help="points, and commits, that are followed")
    parser.add_argument("--checkpoints", type=int, default=10_000)
    parser.add_argument("--points", type=int, default=200_000)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds that an idle server is watched")
    parser.add_argument("--only", nargs="+", choices=["loading", "views", "live", "idle"])
    parser.add_argument("--json", type=Path, help="write every value there too")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as place:
        machine = describe(Path(place))
        load_before = os.getloadavg()[0]
        found = measure(options, Path(place), lambda text: print(text, flush=True))
    machine |= {"load": [round(load_before, 1), round(os.getloadavg()[0], 1)]}
    print(f"\n{sentence(machine)}; load {machine['load'][0]} to {machine['load'][1]}\n")
    print("\n".join(found.lines()))
    if options.json:
        options.json.write_text(json.dumps({"machine": machine, "figures": found.by_name}, indent=1) + "\n")


if __name__ == "__main__":
    main()
