// The curves of a run as the chart holds them: all of it, coarsely, and the window that is looked at, in detail.

import { get, runPath } from "../api.js";

const MARGIN = 0.03;
const FRESH = 400;

export class Curves {
  constructor(key, changed) {
    this.key = key;
    this.changed = changed;
    this.names = [];
    this.wanted = null;
    this.all = {};
    this.detail = null;
    this.ends = [0, 1];
    this.added = 0;
    this.asked = null;
  }

  /** Load the whole run; `names` null asks for every metric. */
  async load(names, points) {
    this.wanted = names;
    const answer = await get(runPath(this.key, "curves"), { names: names?.join(","), points });
    this.names = answer.names;
    this.all = answer.curves;
    this.maxSteps = answer.max_steps;
    this.ends = [answer.first_step ?? 0, answer.last_step ?? 0];
    this.attempts = answer.attempts;
    this.added = 0;
    this.changed();
  }

  /** Load one window in more detail; an older question that is still open is dropped. */
  async zoom([from, to], points) {
    this.asked?.abort();
    this.asked = new AbortController();
    const room = (to - from) * MARGIN;
    const parameters = { names: this.wanted?.join(","), start: Math.floor(from - room), stop: Math.ceil(to + room), points };
    try {
      const answer = await get(runPath(this.key, "curves"), parameters, this.asked.signal);
      this.detail = { from, to, curves: answer.curves };
      this.changed();
    } catch (error) {
      if (error.name !== "AbortError") throw error;
    }
  }

  /** Forget the detail: the whole run is shown. */
  unzoom() {
    this.asked?.abort();
    this.detail = null;
  }

  /** What to draw for a window: its detail where that is at hand, else the whole run's points. */
  at([from, to]) {
    const near = this.detail && this.detail.from <= from + 1e-9 && this.detail.to >= to - 1e-9;
    return near ? this.detail.curves : this.all;
  }

  /** A point that was logged just now. Returns true when so many came that the whole should be asked for again. */
  push(step, values, odd = {}) {
    for (const [name, value] of Object.entries(values)) {
      if (!this.names.includes(name)) {
        this.names.push(name);
        this.added += FRESH;
      }
      const number = typeof value === "number" && Number.isFinite(value) ? value : null;
      for (const curves of [this.all, this.detail?.curves]) {
        const strand = curves?.[name]?.findLast((one) => one.live);
        if (!strand || (strand.steps.length && step <= strand.steps.at(-1))) continue;
        if (curves !== this.all && step > this.detail.to) continue;
        strand.steps.push(step);
        strand.values.push(number);
        if (number === null) strand.odd.push(odd[name] ?? "NaN");
        strand.total += 1;
      }
    }
    this.ends = [Math.min(this.ends[0], step), Math.max(this.ends[1], step)];
    this.added += 1;
    return this.added >= FRESH;
  }

  /** Logged points in a window, and how many of them are drawn. */
  shares(range, names) {
    const curves = this.at(range);
    let [shown, total] = [0, 0];
    for (const name of names) {
      for (const strand of curves[name] ?? []) {
        shown += strand.steps.length;
        total += Math.max(strand.total, strand.steps.length);
      }
    }
    return { shown, total };
  }
}
