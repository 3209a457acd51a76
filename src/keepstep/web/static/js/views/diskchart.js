// Bytes on disk over time, the budget as a line, and the forecast behind the last save.

import { h, set } from "../dom.js";
import { count, size } from "../format.js";
import { colour, faded, onTheme } from "../theme.js";
import { ends, labels, STEPS } from "./timeaxis.js";

export class DiskChart {
  constructor() {
    this.element = h("div", { class: "disk-plot", role: "img" });
    this.unTheme = onTheme(() => this.plot?.redraw(false, true));
    this.sizes = new ResizeObserver(() => this.plot?.setSize({ width: this.element.clientWidth, height: 220 }));
    this.sizes.observe(this.element);
  }

  destroy() {
    this.plot?.destroy();
    this.plot = null;
    this.sizes.disconnect();
    this.unTheme();
  }

  caption(disk) {
    const most = Math.max(...disk.over_time.map((point) => point.bytes));
    const budget = disk.budget_bytes ? ` The red line is the budget, ${size(disk.budget_bytes)}.` : "";
    return `Bytes of all checkpoints after each commit and each removal; ${size(most)} at most so far.${budget}`;
  }

  show(disk) {
    this.plot?.destroy();
    this.plot = null;
    set(this.element);
    const points = disk.over_time;
    if (points.length < 2) return;
    this.element.setAttribute("aria-label", this.caption(disk));
    const times = points.map((point) => Date.parse(point.time) / 1000);
    const bytes = points.map((point) => point.bytes);
    const peak = disk.forecast?.peak_bytes ?? 0;
    const last = times.at(-1);
    const ahead = disk.forecast?.saves_left ? [...times, last + (last - times[0]) * 0.12] : times;
    const future = ahead.map((_, at) => (at < times.length - 1 ? null : at === times.length - 1 ? bytes.at(-1) : disk.forecast.at_end_bytes ?? bytes.at(-1)));
    const most = Math.max(...bytes, peak, disk.budget_bytes ?? 0) * 1.06;
    const axis = { stroke: () => colour("--text-mute"), grid: { stroke: () => colour("--grid"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
    this.plot = new uPlot(
      {
        width: this.element.clientWidth, height: 220, padding: [14, 34, 0, 0], legend: { show: false },
        cursor: { drag: { x: false, y: false }, y: false, points: { size: 7, fill: () => colour("--surface") } },
        scales: { x: { time: true, range: (u, first, last) => ends(first, last) }, y: { range: [0, most] } },
        axes: [{ ...axis, size: 36, space: 84, incrs: STEPS, values: (u, moments, at, space, step) => labels(moments, step) }, { ...axis, size: 60, values: (u, marks) => marks.map((mark) => size(mark)) }],
        series: [
          {},
          { stroke: () => colour("--cat-1"), fill: () => faded("--cat-1", 0.12), width: 1.75, paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } },
          { stroke: () => colour("--cat-1"), dash: [4, 4], width: 1.5, points: { show: false } },
        ],
        hooks: { draw: [(u) => this.#lines(u, disk)], setCursor: [(u) => this.#read(u, points)] },
      },
      [ahead, ahead.map((_, at) => bytes[at] ?? null), future],
      this.element,
    );
    this.readout = h("p", { class: "readout mute" });
    this.element.append(this.readout);
    this.#read(this.plot, points);
  }

  #read(u, points) {
    const point = u.cursor.left >= 0 ? points[u.cursor.idx ?? -1] : null;
    const { step, bytes } = point ?? points.at(-1);
    if (this.readout) set(this.readout, `${point ? `At step ${count(step)}` : "Now"}: ${size(bytes)}`);
  }

  #lines(u, disk) {
    const ratio = devicePixelRatio || 1;
    const lines = [[disk.budget_bytes, "--bad", "budget", "left"], [disk.forecast?.peak_bytes, "--text-mute", "most until the end", "right"]];
    for (const [bytes, token, label, side] of lines) {
      if (!bytes) continue;
      const y = Math.round(u.valToPos(bytes, "y", true));
      const { ctx, bbox } = u;
      ctx.save();
      ctx.strokeStyle = ctx.fillStyle = colour(token);
      ctx.lineWidth = ratio;
      ctx.setLineDash([6 * ratio, 4 * ratio]);
      ctx.beginPath();
      ctx.moveTo(bbox.left, y);
      ctx.lineTo(bbox.left + bbox.width, y);
      ctx.stroke();
      ctx.font = `${11 * ratio}px system-ui, sans-serif`;
      ctx.textBaseline = "bottom";
      // On two sides: the two may lie close.
      ctx.textAlign = side;
      ctx.fillText(`${label} ${size(bytes)}`, side === "left" ? bbox.left + 6 * ratio : bbox.left + bbox.width - 6 * ratio, y - 2 * ratio);
      ctx.restore();
    }
  }
}
