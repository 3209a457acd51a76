// Checkpoints as marks on the curves: which there are, where they stand, which is under the pointer.

import { colour } from "../theme.js";
import { drawGlyph, KINDS } from "./glyphs.js";

const REACH = 14;
const APART = 11;
const FATE = { removed: "removed", thinned: "removed", quarantined: "quarantined", "set aside": "aside" };

/** The marks of a run's summary, by step: {id, kind, step, generation, value, ...row}. */
export function marksOf(summary) {
  const metric = summary.metric?.name;
  const value = (row) => (metric && typeof row.metrics?.[metric] === "number" ? row.metrics[metric] : null);
  const marks = summary.checkpoints.map((row) => ({ ...row, id: `c${row.generation}`, kind: kindOf(row), value: value(row) }));
  for (const row of goneOf(summary)) {
    marks.push({ ...row, id: `r${row.generation}`, fate: row.kind, kind: FATE[row.kind] ?? "removed", value: value(row), gone: true });
  }
  if (summary.in_flight && summary.in_flight.step !== null) {
    marks.push({ id: "writing", kind: "writing", step: summary.in_flight.step, value: null, ...summary.in_flight });
  }
  return marks.sort((a, b) => a.step - b.step || KINDS[a.kind].rank - KINDS[b.kind].rank);
}

/** What is no longer in the run, each once with what became of it last; what was only thinned is still there. */
export function goneOf(summary) {
  const here = new Set(summary.checkpoints.map((row) => row.generation));
  const last = new Map();
  for (const row of [...summary.removed].sort((a, b) => Date.parse(a.time) - Date.parse(b.time))) {
    const before = last.get(row.generation);
    if (!here.has(row.generation)) last.set(row.generation, { ...row, metrics: { ...before?.metrics, ...row.metrics } });
  }
  return [...last.values()];
}

/** The state that a listed checkpoint is drawn in. */
export function kindOf(row) {
  if (row.state === "damaged" || row.state === "torn" || row.state === "quarantined") return "quarantined";
  if (row.state === "set aside" || row.state === "another course") return "aside";
  if (row.best) return "best";
  return row.kind === "weights" ? "thinned" : "kept";
}

/** Marks of one panel in pixels of its canvas. */
export class MarkLayer {
  constructor() {
    this.marks = [];
    this.placed = [];
    this.lit = null;
  }

  /** Draw those in sight; where they stand too close the more important hides the other, which keeps a tick below. */
  draw(u, heightAt) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    const [min, max] = [u.scales.x.min, u.scales.x.max];
    this.placed = [];
    const seen = this.marks.filter((mark) => mark.step >= min && mark.step <= max);
    for (const mark of seen) {
      const x = u.valToPos(mark.step, "x", true);
      const y = clamp(heightAt(u, mark), bbox.top + 6 * ratio, bbox.top + bbox.height - 8 * ratio);
      this.placed.push({ mark, x, y, shown: false });
    }
    const taken = new Set();
    const order = [...this.placed].sort((a, b) => KINDS[b.mark.kind].rank - KINDS[a.mark.kind].rank);
    for (const place of order) {
      const slot = Math.round(place.x / (APART * ratio));
      place.shown = !taken.has(slot);
      taken.add(slot);
    }
    ctx.save();
    if (this.placed.some((place) => !place.shown)) this.#ticks(ctx, bbox, ratio);
    for (const place of order.reverse()) {
      const lit = place.mark.id === this.lit;
      if (place.shown || lit) drawGlyph(ctx, place.mark.kind, place.x, place.y, (lit ? 5.5 : 4.5) * ratio, lit);
    }
    ctx.restore();
  }

  #ticks(ctx, bbox, ratio) {
    for (const { mark, x } of this.placed) {
      drawTick(ctx, mark.gone ? "removed" : mark.kind, x, bbox.top + bbox.height, ratio);
    }
  }

  /** The mark near a point (CSS pixels of the plot), null when none is. */
  at(u, left, top) {
    const ratio = devicePixelRatio || 1;
    const [x, y] = [left * ratio + u.bbox.left, top * ratio + u.bbox.top];
    let found = null;
    let nearest = (REACH * ratio) ** 2;
    for (const place of this.placed) {
      // Those without a sign of their own are found by their tick.
      const down = place.shown ? place.y - y : Math.min(Math.abs(place.y - y), Math.abs(u.bbox.top + u.bbox.height - y));
      const distance = (place.x - x) ** 2 + down ** 2 + (place.shown ? 0 : 9 * ratio ** 2);
      if (distance < nearest) [found, nearest] = [place, distance];
    }
    return found;
  }

  /** Where a mark stands in the plot, in CSS pixels; null when it is out of sight. */
  position(u, id) {
    const place = this.placed.find((one) => one.mark.id === id);
    const ratio = devicePixelRatio || 1;
    return place ? { left: (place.x - u.bbox.left) / ratio, top: (place.y - u.bbox.top) / ratio } : null;
  }
}

function drawTick(ctx, kind, x, bottom, ratio) {
  ctx.globalAlpha = kind === "removed" ? 0.45 : 1;
  ctx.fillStyle = ctx.strokeStyle = tint(kind);
  ctx.fillRect(Math.round(x) - ratio / 2, bottom - 6 * ratio, ratio, 6 * ratio);
  ctx.globalAlpha = 1;
}

const tint = (kind) => colour(KINDS[kind].token);
const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
