// Everything below a root: each run in a row, sorted and searched; best compared with best.

import { get } from "../api.js";
import { Table } from "../components/table.js";
import { command, empty, meter, notice } from "../components/parts.js";
import { h, set } from "../dom.js";
import { age, count, metric, name as clean, plural, size, time } from "../format.js";
import { icon } from "../icons.js";
import { address } from "../router.js";
import { Comparison } from "./compare.js";
import { findingBadges, managedBadge, progress, stateBadge } from "./runrow.js";

const MOST_NOTICES = 4;
const ORDER = { training: 0, damaged: 1, failed: 2, killed: 3, stopped: 4, new: 5, finished: 6 };

export class RunsView {
  constructor({ title }) {
    title("Runs");
    this.picked = new Set();
    this.search = h("input", { type: "search", placeholder: "Search runs", "aria-label": "Search runs", on: { input: () => this.#filter() } });
    this.sub = h("p", { class: "mute" });
    this.table = new Table({
      label: "Runs",
      key: (run) => run.key,
      link: (run) => (run.state === "damaged" && run.problem ? null : address(run.key)),
      sort: { id: "state", down: false },
      stacked: true,
      empty: "No run matches the search.",
      columns: this.#columns(),
    });
    this.table.element.classList.add("runs");
    this.comparison = new Comparison();
    this.notices = h("div", { class: "notices", hidden: true });
    this.list = h("section", { class: "card", "aria-label": "All runs" }, this.table.element);
    this.element = h(
      "div",
      { class: "view" },
      h("div", { class: "title-row" }, h("div", null, h("h1", null, "Runs"), this.sub), h("label", { class: "search" }, icon("search"), this.search)),
      this.notices,
      this.list,
      this.comparison.element,
    );
  }

  async load() {
    const { roots, runs, problems } = await get("api/runs");
    this.runs = runs;
    this.#notices(problems, runs.filter((run) => run.problem));
    const training = runs.filter((run) => run.state === "training").length;
    const bytes = runs.reduce((sum, run) => sum + run.size_bytes, 0);
    set(this.sub, `${plural(runs.length, "run")}${training ? `, ${training} training` : ""}, ${size(bytes)} of checkpoints, below `, roots.map((root, at) => [at ? ", " : "", h("span", { class: "mono" }, clean(root))]));
    if (!runs.length) {
      set(this.list, empty("No run here yet", "A directory becomes a run when a training attached to keepstep begins in it. Add this line to yours:", command("ckpt = keepstep.attach(trainer)", "line")));
    } else if (!this.list.contains(this.table.element)) set(this.list, this.table.element);
    this.#filter();
  }

  refresh() {
    return this.load();
  }

  destroy() {
    this.table.destroy();
    this.comparison.destroy();
  }

  /** What can't be read, in full: a row has no room for a sentence. */
  #notices(problems, broken) {
    const lines = [...problems.map((text) => notice("warn", clean(text))), ...broken.map((run) => notice("bad", h("strong", null, `${clean(run.name)} can't be read. `), clean(run.problem)))];
    const more = lines.length - MOST_NOTICES;
    set(this.notices, lines.slice(0, MOST_NOTICES), more > 0 ? h("p", { class: "hint-line mute" }, `and ${count(more)} more: sort the list by state`) : null);
    this.notices.hidden = !lines.length;
  }

  #filter() {
    const wanted = this.search.value.trim().toLowerCase();
    const shown = this.runs.filter((run) => !wanted || `${run.name} ${run.state} ${run.path}`.toLowerCase().includes(wanted));
    this.table.setRows(shown);
    for (const key of this.picked) if (!this.runs.some((run) => run.key === key)) this.picked.delete(key);
    this.comparison.show(this.runs.filter((run) => this.picked.has(run.key)), this.runs.length > 1);
  }

  #columns() {
    return [
      {
        id: "name", label: "Run", sort: (run) => run.name,
        cell: (run) => h("span", { class: "run-cell" }, h("span", { class: "run-name", title: clean(run.path) }, h("bdi", null, clean(run.name))), managedBadge(run)),
      },
      { id: "state", label: "State", width: "100px", sort: (run) => ORDER[run.state] ?? 9, cell: (run) => stateBadge(run.state) },
      {
        id: "step", label: "Step", width: "140px", wide: true, sort: (run) => run.step, down: true,
        cell: (run) => h("div", { class: "step-cell" }, progress(run), run.max_steps && run.step !== null ? meter([{ share: run.step / run.max_steps }], progress(run)) : null),
      },
      {
        id: "best", label: "Best", width: "170px", sort: (run) => run.best?.value,
        cell: (run) => (run.best ? h("span", { title: `Step ${count(run.best.step)}` }, h("b", null, metric(run.best.value)), h("span", { class: "mute" }, ` ${clean(run.metric.name)}`)) : h("span", { class: "mute" }, run.problem ? "–" : run.metric ? "none" : "not ranked")),
      },
      { id: "count", label: "Checkpoints", width: "100px", number: true, wide: "more", down: true, sort: (run) => run.checkpoints, cell: (run) => count(run.checkpoints) },
      { id: "size", label: "Size", width: "84px", number: true, down: true, sort: (run) => run.size_bytes, cell: (run) => size(run.size_bytes) },
      { id: "last", label: "Last save", width: "88px", number: true, wide: "more", down: true, sort: (run) => (run.last_commit ? Date.parse(run.last_commit) : null), cell: (run) => h("span", { title: time(run.last_commit) }, age(run.last_commit)) },
      { id: "findings", label: "Findings", width: "188px", wide: "more", down: true, sort: (run) => (run.findings ? run.findings.error * 1e6 + run.findings.warning * 1e3 + run.findings.hint : null), cell: (run) => findingBadges(run.findings) },
      {
        id: "compare", label: "Compare", width: "88px", wide: "more",
        cell: (run) => {
          const box = h("input", { type: "checkbox", checked: this.picked.has(run.key), disabled: !run.best, "aria-label": `Compare ${clean(run.name).slice(0, 80)}` });
          box.addEventListener("change", () => {
            if (box.checked) this.picked.add(run.key);
            else this.picked.delete(run.key);
            this.#filter();
          });
          return box;
        },
      },
    ];
  }
}

