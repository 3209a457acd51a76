"""The policy sandbox: rules are tried at once, and applied only after the plan was shown."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tests.web import runs
from tests.web.browser import Eyes, Ui, serving

if TYPE_CHECKING:
    from playwright.sync_api import Route

Look = Callable[..., Eyes]


def test_rules_are_tried_and_nothing_changes(look: Look, shown: Ui) -> None:
    eyes = look(shown)
    page = eyes.visit(f"#/run/{shown.keys()['sft']}/policy")
    eyes.expected.append("400")
    page.get_by_label("Keep").fill("latest:1")
    page.wait_for_selector("[data-stat=kept] dd >> text=/^1$/")
    assert "goes" in eyes.text("table.grid") and "changes" in eyes.text("table.grid")
    assert "After the save of step 2,000" in eyes.text(".replay-text")
    page.get_by_role("slider").press("Home")
    assert "After the save of step 100" in eyes.text(".replay-text")
    page.get_by_label("Keep").fill("best:x")
    page.wait_for_selector("#policy-error:not(:empty)")
    assert page.get_by_label("Keep").get_attribute("aria-invalid") == "true"
    page.locator("[data-preset='all']").click()
    page.wait_for_selector("[data-stat=gone] dd >> text=/^0$/")
    page.get_by_label("Budget").fill("12")
    page.wait_for_selector("#policy-error:not(:empty)")
    assert page.get_by_label("Budget").get_attribute("aria-invalid") == "true"
    assert page.get_by_role("button", name="Apply").is_disabled()
    assert "--allow-write" in eyes.text("#apply-why")


def test_a_plan_is_shown_confirmed_and_carried_out(look: Look, tmp_path: Path) -> None:
    run = runs.finished(tmp_path / "run", steps=800)
    with serving(tmp_path / "run", "--allow-write") as ui:
        eyes = look(ui)
        page = eyes.visit(f"#/run/{ui.keys()['run']}/policy")
        page.get_by_label("Keep").fill("latest:1")
        page.wait_for_selector("#apply:enabled")
        page.get_by_role("button", name="Apply…").click()
        page.wait_for_selector("dialog[open]")
        assert "This can't be undone" in eyes.text("dialog") and "remove step 500" in eyes.text("dialog").replace(
            "\n", " "
        )
        eyes.picture("policy-dialog", full=False)
        page.keyboard.press("Escape")
        page.wait_for_selector("dialog", state="detached")
        assert len(run.checkpoints) > 1, "Esc changes nothing"
        page.get_by_role("button", name="Apply…").click()
        page.locator("[data-action=confirm]").click()
        page.wait_for_selector("dialog", state="detached")
        page.wait_for_selector("text=These are the rules in force")
    left = runs.Run.open(tmp_path / "run")
    assert [one.step for one in left.checkpoints] == [800]
    assert left.policy.describe() == "the newest"


def test_a_run_that_changed_meanwhile_is_not_touched_and_the_new_plan_is_shown(look: Look, tmp_path: Path) -> None:
    runs.finished(tmp_path / "run", steps=800)
    with serving(tmp_path / "run", "--allow-write") as ui:
        eyes = look(ui)
        eyes.expected.append("409")
        page = eyes.visit(f"#/run/{ui.keys()['run']}/policy")
        page.get_by_label("Keep").fill("latest:1")
        page.wait_for_selector("#apply:enabled")
        page.get_by_role("button", name="Apply…").click()
        runs.Trained(tmp_path / "run", "all", resume=800).go(900).end()
        page.wait_for_selector("table.grid >> text=900")
        asked: list[Route] = []

        def changed_again(route: Route) -> None:
            """While the new plan is asked for, the run changes once more, and the page asks anew."""
            asked.append(route)
            if len(asked) == 1:
                run = runs.Run.open(tmp_path / "run")
                run.pin_board.pin(run.find(800).generation)
            else:
                route.continue_()

        page.route("**/plan?*", changed_again)
        page.locator("[data-action=confirm]").click()
        page.wait_for_selector("dialog [role=alert] .notice")
        # The title says so from the first; the button once the new plan is there.
        page.locator("[data-action=confirm]", has_text="Apply this plan").wait_for()
        assert {one.step for one in runs.Run.open(tmp_path / "run").checkpoints} > {800, 900}
        page.locator("[data-action=confirm]").click()
        page.wait_for_selector("dialog", state="detached")
    assert [one.step for one in runs.Run.open(tmp_path / "run").checkpoints] == [800, 900]
