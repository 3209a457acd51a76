// What each save cost: the time that the training stood still, and the time until the checkpoint was durable.

import { h, set } from "../dom.js";
import { count, duration } from "../format.js";
import { colour, onTheme } from "../theme.js";

const LINES = [["blocked_s", "training held up", "--cat-3"], ["durable_s", "safe on disk after", "--cat-1"]];

export class StallChart {
  constructor() {
    this.legend = h("div", { class: "panel-head" });
    this.place = h("div", { role: "img" });
    this.element = h("div", { class: "stall-plot" }, this.legend, this.place);
    this.unTheme = onTheme(() => this.plot?.redraw(false, true));
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.place.clientWidth, height: 180 }));
    this.sizes.observe(this.place);
  }

  destroy() {
    this.plot?.destroy();
    this.plot = null;
    this.unTheme();
    this.sizes.disconnect();
  }

  show(stalls) {
    this.plot?.destroy();
    this.plot = null;
    if (!stalls.length) return;
    const rows = [...stalls].sort((a, b) => a.step - b.step);
    // Steps that were trained again lie between those of the attempt before: a line would jump from one to the other.
    const again = stalls.some((stall, i) => i > 0 && stall.step <= stalls[i - 1].step);
    const column = (name) => rows.map((row) => (row[name] > 0 ? row[name] : null));
    const middle = (name) => rows.map((row) => row[name]).sort((a, b) => a - b)[Math.floor(rows.length / 2)];
    set(this.legend, LINES.map(([name, label, token]) => h("span", { class: "item" }, h("i", { class: "swatch", style: { background: `var(${token})` } }), `${label}, median `, h("span", { class: "value" }, duration(middle(name))))));
    this.place.setAttribute("aria-label", `${count(rows.length)} saves; ${LINES.map(([name, label]) => `${label}: median ${duration(middle(name))}`).join(", ")}`);
    const axis = { stroke: () => colour("--text-mute"), grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot(
      {
        width: this.place.clientWidth || 400, height: 180, padding: [10, 24, 0, 0], legend: { show: false }, cursor: { show: false },
        scales: { x: { time: false }, y: { distr: 3 } },
        axes: [{ ...axis, size: 28, values: (u, marks) => marks.map((mark) => (Number.isInteger(mark) ? count(mark) : "")) }, { ...axis, size: 60, values: (u, marks) => marks.map((mark) => (mark === null ? "" : duration(mark))) }],
        series: [{}, ...LINES.map(([, , token]) => ({ stroke: () => colour(token), width: 1.25, paths: again ? () => null : undefined, points: { show: again || rows.length < 80, size: 4, fill: () => colour(token) } }))],
      },
      [rows.map((row) => row.step), ...LINES.map(([name]) => column(name))],
      this.place,
    );
  }
}
