// The bar on top: where one is, the pages of a run, the state of the connection, theme and keys.

import { h, set } from "../dom.js";
import { icon } from "../icons.js";
import { address } from "../router.js";
import { onTheme, theme, toggleTheme } from "../theme.js";
import { showShortcuts } from "./shortcuts.js";

const PAGES = [["run", "Run"], ["disk", "Disk"], ["policy", "Policy"], ["health", "Health"]];

/** Build the bar once; returns {show(place, {single}), connection(state)}. */
export function buildHeader(bar) {
  const tabs = h("nav", { class: "tabs", "aria-label": "Pages" });
  const dot = h("span", { class: "badge" });
  const swap = h("button", { type: "button", class: "button bare", on: { click: toggleTheme } });
  const keys = h("button", { type: "button", class: "button bare", "aria-label": "Keyboard shortcuts", title: "Keyboard shortcuts (?)", on: { click: showShortcuts } }, icon("help"));
  const drawTheme = () => {
    const next = theme() === "dark" ? "light" : "dark";
    set(swap, icon(next === "dark" ? "moon" : "sun"));
    swap.setAttribute("aria-label", `Use the ${next} theme`);
    swap.title = `Use the ${next} theme (t)`;
  };
  onTheme(drawTheme);
  drawTheme();
  bar.append(tabs, h("div", { class: "tools" }, dot, swap, keys));
  return { show: (place, about) => showTabs(bar, tabs, place, about), connection: (state) => showConnection(dot, state) };
}

function showTabs(bar, tabs, place, about) {
  const run = place.view !== "runs";
  const link = (view, label, href) =>
    h("a", { href, "aria-current": place.view === view || (view === "run" && place.view === "checkpoint") ? "page" : null }, label);
  const all = about?.single ? [] : [link("runs", "All runs", "#/runs")];
  set(tabs, all, run ? PAGES.map(([view, label]) => link(view, label, address(place.key, view))) : []);
  bar.querySelector(".brand").setAttribute("href", about?.single ? address(about.single) : "#/runs");
  // On a phone the row of pages is wider than the screen.
  tabs.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" });
}

function showConnection(dot, state) {
  const live = state === "live";
  dot.className = live ? "badge good" : "badge";
  dot.dataset.connection = state;
  dot.title = live ? "This page follows the run as it changes" : "Waiting for the server";
  set(dot, h("span", { class: live ? "beat" : "beat still", "aria-hidden": "true" }), live ? "Live" : "Connecting");
}
