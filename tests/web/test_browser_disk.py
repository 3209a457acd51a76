"""The disk view: every part by its own name with what frees it, the figures of `keepstep du`, labels of time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from keepstep.operations.usage import usage
from keepstep.run import Run
from keepstep.units import format_size
from tests.web import runs
from tests.web.browser import Eyes, Ui, serving

Look = Callable[..., Eyes]
HOUR, DAY = 3600, 86400


def parts(eyes: Eyes) -> dict[str, str]:
    """What the list of parts says, by part."""
    items = eyes.page.locator(".kinds li").all()
    return {item.get_attribute("data-part") or "": item.inner_text().replace("\n", " ") for item in items}


def test_each_part_has_its_name_the_size_of_du_and_what_frees_it(look: Look, tmp_path: Path) -> None:
    run = runs.cluttered(tmp_path / "my run")
    found = usage(run)
    rooms = {room.name: format_size(room.size_bytes) for room in found.litter}
    with serving(tmp_path) as ui:
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['my run']}/disk")
        said = parts(eyes)
        for kind in ("weights", "optimizer", "other", "unmanaged"):
            assert said[kind].endswith(format_size(found.kinds.to_json()[kind])), said[kind]
        assert said["all"].endswith(format_size(found.kinds.total))
        assert "Set aside by a rewind, 2 checkpoints" in said["set_aside"] and rooms["timelines"] in said["set_aside"]
        assert "In quarantine, 1 checkpoint" in said["quarantined"] and rooms["quarantine"] in said["quarantined"]
        for part in ("set_aside", "quarantined"):
            assert "they stay until" in said[part] and "next training" not in said[part]
        assert "the next training or prune clears it" in said["left_over"] and said["left_over"].endswith("18.0 kB")
        assert "they are pruned" in said["previous"] and "checkpoint-50" in said["unmanaged"]
        words = page.locator(".commands [data-part=set_aside] code").inner_text()
        assert words == f"keepstep prune '{run.path}' --aside"
        eyes.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator(".commands [data-part=quarantined]").get_by_role("button").click()
        page.wait_for_function("() => document.querySelector('#live').textContent === 'Copied'")
        assert page.evaluate("navigator.clipboard.readText()") == f"keepstep prune '{run.path}' --quarantined"
        eyes.picture("disk-cluttered")
        command = [sys.executable, "-m", "keepstep", "prune", str(run.path), "--aside", "--quarantined", "--yes"]
        subprocess.run(command, check=True, capture_output=True)
        page.wait_for_selector(".kinds [data-part=set_aside]", state="detached")
        assert set(parts(eyes)) == {"weights", "optimizer", "other", "previous", "unmanaged", "all"}
        assert page.locator(".commands [data-part]").count() == 1
        assert parts(eyes)["all"].endswith(format_size(usage(Run.open(run.path)).kinds.total))


def texts_drawn(eyes: Eyes) -> list[str]:
    """What the canvases have written, when they have written something and then nothing more."""
    drawn: list[str] = []
    for _ in range(200):
        eyes.page.wait_for_timeout(150)
        more = eyes.page.evaluate("window.written.splice(0)")
        if drawn and not more:
            return drawn
        drawn += more
    raise AssertionError("the drawing did not come to an end")


def test_a_run_that_is_over_has_no_forecast(look: Look, tmp_path: Path) -> None:
    runs.finished(tmp_path / "over", steps=600)
    runs.Trained(tmp_path / "stopped", "latest:2", max_steps=2_000).go(600).end(None)
    with serving(tmp_path) as ui:
        eyes = look(ui)
        figures = {}
        drawn = {}
        eyes.page.evaluate(WATCH)
        for name in ("stopped", "over"):
            page = eyes.visit(f"#/run/{ui.keys()[name]}/disk")
            page.wait_for_selector(".disk-plot canvas")
            figures[name] = eyes.text(".view").lower()
            drawn[name] = texts_drawn(eyes)
    for words in ("most until the end", "at the end", "more save", "it fits"):
        assert words in figures["stopped"] and words not in figures["over"], words
    assert "each checkpoint" in figures["over"] and "free on the disk" in figures["over"]
    assert any(text.startswith("most until the end") for text in drawn["stopped"])
    assert drawn["over"] and not any(text.startswith("most until the end") for text in drawn["over"])


WATCH = """() => {
  window.written = [];
  const write = CanvasRenderingContext2D.prototype.fillText;
  CanvasRenderingContext2D.prototype.fillText = function (text, ...place) {
    window.written.push(String(text));
    return write.call(this, text, ...place);
  };
}"""
"""Keeps what is written on canvases."""


SPANS = (1, 5, 40, 300, HOUR, 9 * HOUR, 30 * HOUR, 6 * DAY, 60 * DAY, 400 * DAY, 3_000 * DAY)
CLOCKS_GO_BACK = 1_792_890_000
"""In Berlin, on 25 October 2026 at 01:00 UTC: within each span."""


@pytest.mark.parametrize("zone", ["UTC", "Asia/Kolkata", "Europe/Berlin"])
@pytest.mark.quick(1)
def test_no_label_of_time_is_said_twice_at_any_span(look: Look, shown: Ui, zone: str) -> None:
    eyes = look(shown, zone=zone)
    for span in SPANS:
        drawn = eyes.page.evaluate(DRAW, [span, CLOCKS_GO_BACK + span // 3])
        said = [label for label in drawn if label]
        assert len(said) >= 2 and len(set(whole(said))) == len(said), (span, drawn)
        colons = 2 if span <= 300 else 1 if span <= 6 * DAY else 0
        assert {label.count(":") for label in said} == {colons}, (span, drawn)


def whole(labels: list[str]) -> list[str]:
    """Labels with the second line that stands below an earlier one."""
    found, group = [], ""
    for label in labels:
        text, _, own = label.partition("\n")
        group = own or group
        found.append(f"{text} {group}")
    return found


DRAW = """async ([span, last]) => {
  const {DiskChart} = await import('/static/js/views/diskchart.js');
  const chart = new DiskChart();
  document.querySelector('main').replaceChildren(chart.element);
  const over_time = [0, 0.2, 0.5, 1].map((share, step) => (
    {time: new Date((last - span + share * span) * 1000).toISOString(), step, bytes: 10 * step}
  ));
  chart.show({over_time, budget_bytes: null, forecast: null});
  await new Promise(requestAnimationFrame);
  const labels = chart.plot.axes[0]._values;
  chart.destroy();
  return labels;
}"""
