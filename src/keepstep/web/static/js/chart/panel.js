// One panel of curves: axes, lines, the legend with values under the pointer. uPlot draws; the layer adds the marks.

import { h, set } from "../dom.js";
import { count, metric, name as clean } from "../format.js";
import { colour, faded, paint } from "../theme.js";
import { drawOdds, oddAt, oddsOf } from "./odd.js";
import { panelSeries, stylesOf } from "./series.js";

export const GUTTER = 52;

/** A panel for `group` ({id, names}). `on`: {zoom(min, max), cursor(u, left, top), leave(), draw(u), ready(u)}. */
export class Panel {
  constructor(group, { height, main, sync, on }) {
    Object.assign(this, { group, height, main, sync, on });
    this.values = new Map();
    this.head = h("div", { class: "panel-head" });
    this.place = h("div", { class: "panel-plot" });
    this.element = h("div", { class: main ? "panel main" : "panel", "data-panel": group.id }, this.head, this.place);
    this.#drawHead();
  }

  /** Show these curves in this window of steps; the plot is built anew only when its lines or its scale changed. */
  show(curves, range, options) {
    const { data, series } = panelSeries(curves, this.group.names, options);
    this.range = range;
    this.odds = oddsOf(curves, this.group.names);
    const shape = JSON.stringify([series.map(({ name, alpha }) => [name, alpha]), options]);
    if (this.plot && shape === this.shape) {
      this.plot.batch(() => {
        this.plot.setData(data, false);
        this.plot.setScale("x", { min: range[0], max: range[1] });
      });
      // Equal limits are no change for the scale, and new data must be drawn all the same.
      this.plot.redraw(true, true);
    } else this.#build(data, series, options);
    this.shape = shape;
    this.series = series;
    this.#last(curves);
  }

  /** Move the window without new data. */
  move(range) {
    this.range = range;
    this.plot?.setScale("x", { min: range[0], max: range[1] });
  }

  restyle() {
    this.#drawHead();
    this.plot?.redraw(false, true);
  }

  resize(width) {
    if (this.plot && width > 0 && width !== this.plot.width) this.plot.setSize({ width, height: this.height });
  }

  destroy() {
    this.plot?.destroy();
    this.plot = null;
  }

  #build(data, series, options) {
    this.plot?.destroy();
    const lines = series.map((one) => ({
      label: one.name,
      stroke: () => (one.alpha === 1 ? colour(one.token) : faded(one.token, one.alpha)),
      width: one.width,
      points: { show: (u, at) => one.live && one.alpha === 1 && fewPoints(u, at), size: 4 },
    }));
    const axis = {
      stroke: () => colour("--text-mute"),
      grid: { stroke: () => colour("--grid"), width: 1 },
      ticks: { show: false },
      font: "11px system-ui, sans-serif",
      gap: 6,
    };
    this.plot = new uPlot(
      {
        width: this.place.clientWidth || 600,
        height: this.height,
        padding: [10, 22, 0, 0],
        legend: { show: false },
        focus: { alpha: 1 },
        cursor: {
          drag: { x: true, y: false, setScale: false, dist: 6 },
          points: { size: 7, width: 1.5, fill: () => colour("--surface"), one: false },
          y: false,
          sync: { key: this.sync, setSeries: false, filters: { pub: (type) => type === "mousemove" || type === "mouseleave" } },
        },
        scales: {
          x: { time: false, range: () => this.range },
          y: options.log ? { distr: 3, log: 10 } : { range: (u, low, high) => pad(low, high) },
        },
        axes: [
          { ...axis, size: 28, space: 80, values: (u, marks) => marks.map((mark) => (Number.isInteger(mark) ? count(mark) : "")) },
          { ...axis, size: GUTTER, space: 40, values: (u, marks) => marks.map((mark) => (mark === null ? "" : metric(mark))) },
        ],
        series: [{ label: "step" }, ...lines],
        hooks: {
          draw: [(u) => drawOdds(u, this.odds), (u) => this.on.draw?.(u, this)],
          setSelect: [(u) => this.#selected(u)],
          setCursor: [(u) => this.#moved(u)],
        },
      },
      data,
      this.place,
    );
    this.on.ready?.(this.plot, this);
  }

  #selected(u) {
    if (u.select.width < 6) return;
    const [min, max] = [u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x")];
    u.setSelect({ left: 0, width: 0, top: 0, height: 0 }, false);
    this.on.zoom(min, max);
  }

  #moved(u) {
    const { idx, left } = u.cursor;
    const over = left >= 0 && idx !== null && idx !== undefined;
    this.odd = over ? oddAt(u, this.odds, left) : null;
    for (const [name, cell] of this.values) {
      if (this.odd?.name === name) {
        set(cell, this.odd.what);
        continue;
      }
      const at = this.series?.findIndex((one) => one.name === name && one.live) ?? -1;
      const value = over && at >= 0 ? nearest(u.data[0], u.data[at + 1], idx) : this.lasts?.get(name);
      set(cell, metric(value));
    }
    this.on.cursor?.(u, this);
  }

  #last(curves) {
    this.lasts = new Map(this.group.names.map((name) => [name, lastOf((curves[name] ?? []).findLast((strand) => strand.live))]));
    for (const [name, cell] of this.values) set(cell, metric(this.lasts.get(name)));
  }

  #drawHead() {
    const styles = stylesOf(this.group.names);
    this.values.clear();
    const items = this.group.names.map((name) => {
      const value = h("span", { class: "value" }, "–");
      this.values.set(name, value);
      return h("span", { class: "item" }, h("i", { class: "swatch", style: { background: paint(styles.get(name).token) } }), clean(name), value);
    });
    set(this.head, items);
    if (this.lasts) for (const [name, cell] of this.values) set(cell, metric(this.lasts.get(name)));
  }
}

/** Points are shown where they are few: single evaluations would else not be seen. */
function fewPoints(u, at) {
  const values = u.data[at];
  let found = 0;
  for (let place = 0; place < values.length && found <= 60; place += 1) {
    if (values[place] !== null && values[place] !== undefined && u.data[0][place] >= u.scales.x.min && u.data[0][place] <= u.scales.x.max) found += 1;
  }
  return found <= 60;
}

/** The value at a place, or the closest before or after it that this line has. */
function nearest(steps, values, at) {
  for (let off = 0; off < values.length; off += 1) {
    const [before, after] = [values[at - off], values[at + off]];
    if (before !== null && before !== undefined) return before;
    if (after !== null && after !== undefined) return after;
  }
  return null;
}

function pad(low, high) {
  if (low === null || high === null) return [0, 1];
  const room = (high - low) * 0.08 || Math.abs(high) * 0.1 || 1;
  return [low - room, high + room];
}

/** The last value of a strand; the name of one that is no finite number. */
const lastOf = (strand) => (strand ? strand.values.at(-1) ?? strand.odd?.at(-1) ?? null : null);
