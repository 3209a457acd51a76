// Best against best: the runs that were picked, each metric on its own, and their curves in one plot.

import { get, runPath } from "../api.js";
import { card } from "../components/parts.js";
import { h, set } from "../dom.js";
import { count, metric, name as clean, size } from "../format.js";
import { address } from "../router.js";
import { colour, onTheme, paint, tokenOf } from "../theme.js";
import { courseOf } from "../chart/series.js";


export class Comparison {
  constructor() {
    this.element = h("div", { class: "compare" });
    this.plots = [];
    this.sizes = new ResizeObserver(() => this.plots.forEach((plot) => plot.setSize({ width: plot.root.parentElement.clientWidth, height: 220 })));
    this.sizes.observe(this.element);
    this.unTheme = onTheme(() => this.plots.forEach((plot) => plot.redraw(false, true)));
  }

  destroy() {
    this.unTheme();
    this.sizes.disconnect();
    this.#clear();
  }

  /** Compare these runs; `hint`: say how when none is picked. */
  show(runs, hint) {
    const shape = JSON.stringify(runs.map((run) => [run.key, run.best]));
    if (shape === this.shape && runs.length) return;
    this.shape = shape;
    this.#clear();
    if (runs.length < 2) {
      set(this.element, hint ? h("p", { class: "mute hint-line ticks" }, runs.length ? "Tick a second run to compare best with best." : "Tick two or more runs to compare their best checkpoints.") : []);
      return;
    }
    const groups = new Map();
    for (const run of runs) groups.set(run.metric.name, [...(groups.get(run.metric.name) ?? []), run]);
    set(this.element, [...groups].map(([name, members]) => this.#group(name, members)));
  }

  #group(name, runs) {
    const lower = runs[0].metric.mode === "min";
    const ranked = [...runs].sort((a, b) => (lower ? a.best.value - b.best.value : b.best.value - a.best.value));
    const best = ranked[0].best.value;
    const rows = ranked.map((run, at) =>
      h(
        "tr",
        null,
        h("th", { scope: "row" }, h("span", { class: "run-name" }, h("i", { class: "swatch", style: { background: paint(tokenOf(at)) } }), h("a", { href: address(run.key, "checkpoint", run.best.generation) }, h("bdi", null, clean(run.name))))),
        h("td", { class: "number" }, h("b", null, metric(run.best.value))),
        h("td", { class: "number mute" }, at === 0 ? "the best" : `${run.best.value > best ? "+" : "−"}${metric(Math.abs(run.best.value - best))}`),
        h("td", { class: "number" }, count(run.best.step)),
        h("td", { class: "number" }, size(run.size_bytes)),
      ),
    );
    const head = ["Run", clean(name), "Difference", "At step", "Size"].map((label, at) => h("th", { scope: "col", class: at ? "number" : null }, label));
    const place = h("div", { class: "compare-plot", role: "img", "aria-label": `${clean(name)} of ${runs.length} runs by step; the table says the best of each` });
    const table = h("div", { class: "plain-scroll", tabIndex: 0, role: "region", "aria-label": `Best by ${clean(name)}` }, h("table", { class: "plain" }, h("thead", null, h("tr", null, head)), h("tbody", null, rows)));
    this.#draw(name, ranked, place);
    return card(`Best against best: ${clean(name)}, ${lower ? "lower" : "higher"} is better`, {}, table, place);
  }

  async #draw(name, runs, place) {
    const found = await Promise.all(runs.map((run) => get(runPath(run.key, "curves"), { names: name, points: 600 }).catch(() => ({ curves: {} }))));
    if (!place.isConnected) return;
    const courses = found.map(({ curves }) => courseOf(curves, name));
    const drawn = courses.map((course, at) => ({ course, at })).filter(({ course }) => course[0].length > 1);
    place.hidden = !drawn.length;
    if (!drawn.length) return;
    const axis = { stroke: () => colour("--text-mute"), grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    const plot = new uPlot(
      {
        width: place.clientWidth, height: 220, padding: [10, 12, 0, 0], legend: { show: false }, cursor: { show: false },
        scales: { x: { time: false } },
        axes: [{ ...axis, size: 28, values: (u, marks) => marks.map(count) }, { ...axis, size: 52, values: (u, marks) => marks.map(metric) }],
        series: [{}, ...drawn.map(({ at }) => ({ stroke: () => colour(tokenOf(at)), width: 1.75, points: { show: false } }))],
      },
      uPlot.join(drawn.map(({ course }) => course)),
      place,
    );
    this.plots.push(plot);
  }

  #clear() {
    for (const plot of this.plots) plot.destroy();
    this.plots = [];
  }
}
