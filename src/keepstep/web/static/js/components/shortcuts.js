// Keys that work everywhere, and the list of all of them.

import { h } from "../dom.js";
import { address, go, parse } from "../router.js";
import { toggleTheme } from "../theme.js";
import { openDialog } from "./dialog.js";

const KEYS = [
  ["?", "this list"],
  ["r", "all runs"],
  ["1 2 3 4", "a run's pages: Run, Disk, Policy, Health"],
  ["/", "search in the table"],
  ["t", "light or dark"],
  ["c", "to the chart"],
  ["← →", "on the chart, and on a checkpoint's page: the checkpoint before, the next one"],
  ["+ − 0", "on the chart: zoom in, zoom out, the whole run"],
  ["Shift ← →", "on the chart: move along when zoomed in"],
  ["↑ ↓", "in a table: the row above, the row below"],
  ["Enter", "open the checkpoint or run"],
  ["Esc", "close what is open"],
];

/** Show the keys. */
export function showShortcuts() {
  if (document.querySelector("dialog[open]")) return;
  const rows = KEYS.map(([keys, what]) => [h("dt", null, keys.split(" ").map((key) => [h("kbd", null, key), " "])), h("dd", null, what)]);
  openDialog("Keyboard", h("dl", { class: "keys" }, rows));
}

/** Listen for them on the whole page. */
export function installShortcuts() {
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (event.target.closest("input, textarea, select, dialog")) return;
    const { key } = parse(location.hash);
    const pages = { 1: "run", 2: "disk", 3: "policy", 4: "health" };
    if (event.key === "?") showShortcuts();
    else if (event.key === "t") toggleTheme();
    else if (event.key === "r") go("#/runs");
    else if (key && event.key in pages) go(address(key, pages[event.key]));
    else if (event.key === "c") document.querySelector(".chart-focus")?.focus();
    else if (event.key === "/" && document.querySelector("input[type=search]")) document.querySelector("input[type=search]").focus();
    else return;
    event.preventDefault();
  });
}
