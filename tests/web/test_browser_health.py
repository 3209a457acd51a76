"""The health view: events as sentences, and attempts by their steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from msgspec.structs import replace

from keepstep.operations.export.choosing import note_exported
from tests.web import runs
from tests.web.browser import Eyes, Ui, serving

Look = Callable[..., Eyes]
COUNT = """
window.drawn = { lineTo: 0, arc: 0 };
for (const name of Object.keys(window.drawn)) {
  const draw = Path2D.prototype[name];
  Path2D.prototype[name] = function (...at) { window.drawn[name] += 1; return draw.apply(this, at); };
}
"""


def test_an_export_is_a_sentence_with_its_kind_and_place(look: Look, tmp_path: Path) -> None:
    run = runs.finished(tmp_path / "sft", steps=400)
    newest = run.checkpoints[-1]
    others = tuple(replace(newest, step=step) for step in (1_600, 24))
    note_exported(run, (newest,), Path("/exports/one"), "adapter")
    note_exported(run, (newest, *others), Path("/exports/two"), "model")
    with serving(tmp_path) as ui:
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['sft']}/health")
        page.get_by_label("Search events").fill("/exports/")
        said = page.locator("table.grid td[data-column=text]").all_inner_texts()
        assert [text for text in said if text] == [
            "Average of steps 400, 1,600, 24 exported as a model to /exports/two",
            "Step 400 exported as an adapter to /exports/one",
        ]


def test_an_attempt_says_its_steps_and_its_end_once(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    for name, expected in {
        "sft": ["finished steps 0 to 2,000"],
        "dpo": ["failed steps 700 to 1,200, rewound", "killed steps 0 to 900"],
    }.items():
        page = eyes.visit(f"#/run/{shown.keys()[name]}/health")
        said = page.locator(".attempt p:first-child").all_inner_texts()
        assert [" ".join(text.split()) for text in said] == expected
    page = eyes.visit(f"#/run/{shown.keys()['dpo']}")
    page.wait_for_selector(".lane-text")
    bars = page.locator(".lane-text").all_inner_texts()
    assert [text.partition(" · ")[0] for text in bars] == ["steps 0 to 900, killed", "rewound to 700, failed at 1,200"]


def test_saves_of_steps_that_were_trained_again_are_joined_by_no_line(look: Look, shown: Ui) -> None:
    eyes = look(shown, alone=True)
    eyes.page.add_init_script(COUNT)
    eyes.page.reload()
    joined = {}
    for name in ("sft", "dpo"):
        page = eyes.visit(f"#/run/{shown.keys()[name]}/health")
        page.wait_for_selector(".stall-plot canvas")
        page.evaluate("() => { window.drawn.lineTo = window.drawn.arc = 0; }")
        page.set_viewport_size({"width": 1180, "height": 860} if name == "sft" else {"width": 1280, "height": 860})
        page.wait_for_function("() => window.drawn.arc > 0")  # drawn anew: the points come after the lines
        joined[name] = page.evaluate("window.drawn.lineTo")
        eyes.picture(f"health-saves-{name}")
    assert joined["sft"] > 0
    assert joined["dpo"] == 0
