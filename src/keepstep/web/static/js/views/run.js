// One run: its figures, its curves with the checkpoints on them, and the list of its checkpoints.

import { get, runPath } from "../api.js";
import { RunChart } from "../chart/runchart.js";
import { card, empty, notice } from "../components/parts.js";
import { announce, h, set } from "../dom.js";
import { count, name as clean, percent } from "../format.js";
import { address, go } from "../router.js";
import { CheckpointList } from "./checkpoints.js";
import { Asking } from "./asking.js";
import { describe, markTip, sayMark } from "./marktext.js";
import { levelOf, lines, meaning } from "./receipt.js";
import { managedBadge, progress, stateBadge } from "./runrow.js";
import { RunStrip } from "./strip.js";
import { Verdict } from "./verdict.js";

export class RunView {
  constructor({ key, about, title }) {
    Object.assign(this, { key, title });
    this.head = h("div", { class: "title-main" });
    this.asking = new Asking(key, about);
    this.notices = h("div", { class: "notices" });
    this.strip = new RunStrip();
    this.verdict = new Verdict();
    this.chart = new RunChart(key, {
      open: (mark) => (mark && !mark.gone && mark.generation ? go(address(key, "checkpoint", mark.generation)) : null),
      hover: (mark) => this.list.highlight(mark?.gone ? null : mark?.generation ?? null),
      tip: (mark) => markTip(mark, this.summary),
      say: (mark) => sayMark(mark, this.summary),
      failed: (error) => error.status && set(this.chart.info, `The curves can't be shown: ${error.message}`),
    });
    this.list = new CheckpointList(key, (generation) => this.chart.light(generation === null ? null : `c${generation}`));
    this.place = h("div", { class: "view-rest" });
    this.element = h("div", { class: "view" }, h("div", { class: "title-row" }, this.head, this.asking.element), this.asking.said, this.verdict.element, this.notices, this.place);
  }

  async load() {
    const curves = this.#curves();
    await this.#summary();
    await curves;
  }

  /** Curves and summary are asked for at once; the chart draws when both are there. */
  async #curves() {
    await Promise.resolve();
    return this.chart.load();
  }

  async refresh(changed) {
    const all = !changed.size;
    if (all || ["checkpoints", "events", "disk", "in_flight", "curves", "mirror"].some((what) => changed.has(what))) await this.#summary();
    if (all || changed.has("curves")) await this.chart.load();
  }

  points(step, values, odd) {
    this.chart.push(step, values, odd);
    if (!this.summary || step <= (this.summary.step ?? 0)) return;
    this.summary.step = step;
    this.#title();
    this.strip.set(this.summary);
  }

  /** What a training answers to what this page, or another one, has asked. */
  asked(event) {
    this.asking.told(event);
  }

  destroy() {
    this.chart.destroy();
    this.list.destroy();
    this.strip.destroy();
  }

  async #summary() {
    const before = this.summary;
    this.summary = await get(runPath(this.key));
    this.title(clean(this.summary.name).slice(0, 60));
    this.#title();
    this.verdict.set(this.summary);
    this.#notices();
    this.strip.set(this.summary);
    if (!this.laid) this.#lay();
    this.chart.setSummary(this.summary, describe(this.summary));
    this.list.set(this.summary);
    if (before) this.#tell(before);
  }

  #lay() {
    this.laid = true;
    if (this.summary.state === "new" && !this.summary.checkpoints.length && !this.summary.attempts.length) {
      set(this.place, h("section", { class: "card" }, empty("Nothing was saved yet", `The first checkpoint appears here the moment it is committed: this page follows the run by itself. Of what is saved, ${clean(this.summary.policy.text)} will be kept.`)));
      this.laid = false;
      return;
    }
    const chart = card("Curves and checkpoints", { id: "curves", tools: [this.chart.picker.element] }, h("div", { class: "card-body chart-body" }, this.chart.element, this.chart.lanes.element, h("div", { class: "chart-foot" }, this.chart.signs, this.chart.info), this.chart.odd, this.chart.text));
    set(this.place, this.strip.element, chart, this.list.element);
  }

  #title() {
    const run = this.summary;
    const share = run.max_steps && run.step !== null ? ` · ${percent(run.step, run.max_steps)}` : "";
    set(
      this.head,
      [h("h1", { class: "run-title" }, h("bdi", null, clean(run.name)), " ", stateBadge(run.state), managedBadge(run)), h("p", { class: "mute" }, h("span", { data: { live: "step" } }, progress(run)), share, " · ", h("span", { class: "mono path" }, clean(run.path)))],
    );
    this.asking.set(run);
  }

  #notices() {
    const { receipt, problem } = this.summary;
    const shown = [];
    if (problem) shown.push(notice("bad", clean(problem)));
    for (const text of this.summary.oddities) shown.push(notice("warn", clean(text)));
    if (receipt) {
      const why = lines(receipt).join("; ");
      shown.push(notice(receipt.level === "approximate" ? "warn" : "info", h("strong", null, `The last resume was ${levelOf(receipt)}. `), meaning(receipt), why ? ` ${why}.` : ""));
    }
    set(this.notices, shown);
    this.notices.hidden = !shown.length;
  }

  /** New commits and new bests are said aloud. */
  #tell(before) {
    const known = new Set(before.checkpoints.map((row) => row.generation));
    const added = this.summary.checkpoints.filter((row) => !known.has(row.generation));
    if (added.length) announce(added.map((row) => `Checkpoint of step ${count(row.step)} committed${row.best ? ", the new best" : ""}`).join(". "));
  }
}
