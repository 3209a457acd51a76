// The list of `keepstep ls`: what there is, why each is kept; and, on demand, what is gone and why.

import { glyph } from "../chart/glyphs.js";
import { goneOf, kindOf } from "../chart/marks.js";
import { badge } from "../components/parts.js";
import { Table } from "../components/table.js";
import { h, set } from "../dom.js";
import { age, count, epoch, metric, name as clean, plural, size, time } from "../format.js";
import { icon } from "../icons.js";
import { address } from "../router.js";

const GONE = { removed: "removed", thinned: "removed", quarantined: "quarantined", "set aside": "aside" };
const FATE = { removed: "removed", thinned: "thinned", quarantined: "quarantined", aside: "set aside" };

export class CheckpointList {
  constructor(key, hover) {
    this.key = key;
    this.gone = false;
    this.search = h("input", { type: "search", placeholder: "Search", "aria-label": "Search checkpoints", on: { input: () => this.#draw() } });
    this.here = this.#tab("Kept", false);
    this.past = this.#tab("Gone or aside", true);
    this.heading = h("h2", { id: "checkpoints-title" }, "Checkpoints");
    this.note = h("p", { class: "card-note" });
    this.place = h("div");
    this.foreign = h("p", { class: "card-note foreign" });
    this.element = h(
      "section",
      { class: "card", "aria-labelledby": "checkpoints-title" },
      h("div", { class: "card-head" }, this.heading, h("div", { class: "joined", role: "group", "aria-label": "Which checkpoints" }, this.here, this.past), h("label", { class: "search" }, icon("search"), this.search)),
      this.note,
      this.place,
      this.foreign,
    );
    this.hover = hover;
  }

  /** Show a run's summary. */
  set(summary) {
    this.summary = summary;
    this.rows = summary.checkpoints;
    this.lost = goneOf(summary);
    set(this.here, `Kept ${count(this.rows.length)}`);
    set(this.past, `Gone or aside ${count(this.lost.length)}`);
    if (!this.table || this.metric !== summary.metric?.name) this.#build();
    this.#draw();
  }

  highlight(generation) {
    if (!this.gone) this.table?.setCurrent(generation);
  }

  destroy() {
    this.table?.destroy();
  }

  #tab(label, gone) {
    const button = h("button", { type: "button", class: "button small", "aria-pressed": String(!gone) }, label);
    button.addEventListener("click", () => {
      this.gone = gone;
      this.here.setAttribute("aria-pressed", String(!gone));
      this.past.setAttribute("aria-pressed", String(gone));
      this.#build();
      this.#draw();
    });
    return button;
  }

  #draw() {
    const wanted = this.search.value.trim().toLowerCase();
    const rows = this.gone ? this.lost : this.rows;
    const text = (row) => `${row.step} ${row.name ?? ""} ${(row.tags ?? []).join(" ")} ${(row.kept_because ?? []).join(" ")} ${row.reason ?? ""} ${row.best ? "best" : ""} ${row.pinned ? "pinned" : ""} ${row.kind}`.toLowerCase();
    this.table.setRows(wanted ? rows.filter((row) => text(row).includes(wanted)) : rows);
    this.#strangers();
    const policy = this.summary.policy;
    const doomed = this.rows.filter((row) => row.action !== "keep").length;
    const rule = this.summary.managed === false ? ["keepstep does not manage this run, and removes nothing in it. To have it managed: ", h("code", null, `keepstep adopt ${clean(this.summary.path)}`), ". ", h("a", { href: address(this.key, "policy") }, "What would a policy keep?")] : ["The policy keeps ", h("b", null, clean(policy.text)), ". ", h("a", { href: address(this.key, "policy") }, "Try another"), "."];
    const by = this.summary.state === "training" ? "The training's next save" : "The next save or prune";
    const next = doomed ? ` ${by} changes ${plural(doomed, "checkpoint")}: see the last column.` : "";
    set(this.note, this.gone ? ["What is no longer in the run, and why. What was set aside or is in quarantine still takes room: see ", h("a", { href: address(this.key, "disk") }, "Disk"), "."] : [rule, next]);
  }

  #strangers() {
    const strangers = this.summary.foreign;
    this.foreign.hidden = !strangers.length;
    const more = strangers.length > 5 ? ` and ${count(strangers.length - 5)} more` : "";
    const shown = strangers.slice(0, 5).map((one, at) => [at ? ", " : "", h("span", { class: "mono" }, clean(one.name)), ` (${clean(one.reason)})`]);
    set(this.foreign, "Called like checkpoints, and none of this run; never counted, never touched: ", shown, more, ".");
  }

  #build() {
    this.table?.destroy();
    this.metric = this.summary.metric?.name;
    this.table = new Table({
      label: this.gone ? "Checkpoints that are gone or lie aside" : "Checkpoints that are kept",
      key: (row) => (row.generation),
      link: this.gone ? null : (row) => address(this.key, "checkpoint", row.generation),
      mark: (row) => (this.gone ? "gone" : row.action === "remove" ? "gone" : ""),
      stacked: true,
      sort: { id: "step", down: true },
      empty: this.search.value ? "Nothing matches the search." : this.gone ? "Nothing was removed yet." : "No checkpoint on disk.",
      columns: this.gone ? this.#pastColumns() : this.#columns(),
      onHover: this.gone ? null : (row) => this.hover(row ? row.generation : null),
    });
    this.table.element.classList.add("checkpoints");
    set(this.place, this.table.element);
  }

  #value(row) {
    const value = this.metric ? row.metrics?.[this.metric] : null;
    return typeof value === "number" ? value : null;
  }

  #columns() {
    return [
      { id: "step", label: "Step", width: "112px", down: true, sort: (row) => row.step * 1e6 + row.generation, cell: (row) => h("span", { title: clean(row.name ?? "") }, glyph(kindOf(row)), ` ${count(row.step)}`) },
      { id: "metric", label: clean(this.metric ?? "Metric"), width: "116px", number: true, sort: (row) => this.#value(row), cell: (row) => metric(row.metrics?.[this.metric]) },
      { id: "marks", label: "Marks", width: "212px", wide: true, cell: marksCell },
      { id: "epoch", label: "Epoch", width: "72px", number: true, wide: "more", sort: (row) => row.epoch, cell: (row) => epoch(row.epoch) },
      { id: "size", label: "Size", width: "84px", number: true, down: true, sort: (row) => row.size_bytes, cell: (row) => size(row.size_bytes) },
      { id: "age", label: "Age", width: "68px", number: true, wide: "more", sort: (row) => -Date.parse(row.created), cell: (row) => h("span", { title: time(row.created) }, age(row.created)) },
      { id: "why", label: "Why it is kept", cell: whyCell },
    ];
  }

  #pastColumns() {
    return [
      { id: "step", label: "Step", width: "112px", down: true, sort: (row) => row.step * 1e6 + row.generation, cell: (row) => h("span", null, glyph(GONE[row.kind] ?? "removed"), ` ${count(row.step)}`) },
      { id: "metric", label: clean(this.metric ?? "Metric"), width: "116px", number: true, sort: (row) => this.#value(row), cell: (row) => metric(row.metrics?.[this.metric]) },
      { id: "fate", label: "What became of it", width: "150px", wide: true, sort: (row) => row.kind, cell: (row) => FATE[row.kind] ?? row.kind },
      { id: "age", label: "When", width: "96px", number: true, sort: (row) => -Date.parse(row.time), cell: (row) => h("span", { title: time(row.time) }, `${age(row.time)} ago`) },
      { id: "why", label: "Why", cell: (row) => h("span", { title: clean(row.reason) }, clean(row.reason)) },
    ];
  }
}

/** The signs of one row: best, newest, pinned, tags, weights only, damaged. */
export function marksCell(row) {
  return h(
    "span",
    { class: "cell-marks" },
    row.best ? badge("best", "best") : null,
    row.newest ? badge("newest", "info") : null,
    row.pinned ? badge("pinned", "", icon("pin")) : null,
    row.tags.map((tag) => badge(clean(tag))),
    ["damaged", "torn", "unreadable"].includes(row.state) ? badge(row.state, "bad") : null,
    row.state === "another course" ? badge("another course", "warn") : null,
    row.kind === "weights" ? badge("weights") : null,
  );
}

function whyCell(row) {
  if (row.action === "remove") return h("span", { class: "warn-text" }, "Goes next: no rule keeps it");
  const text = row.kept_because.map(clean).join("; ");
  return h("span", { title: text }, row.action === "thin" ? h("span", { class: "warn-text" }, "Thinned next: ") : null, text);
}
