// The disk: use against the budget over time, what takes the room, what the end of the run needs, what could go.

import { get, runPath } from "../api.js";
import { card, command, empty, meter, strip } from "../components/parts.js";
import { Table } from "../components/table.js";
import { h, set } from "../dom.js";
import { count, name as clean, percent, plural, size } from "../format.js";
import { address } from "../router.js";
import { DiskChart } from "./diskchart.js";
import { KINDS, rowsOf, wayOut } from "./diskparts.js";

export class DiskView {
  constructor({ key, title }) {
    Object.assign(this, { key, title });
    this.chart = new DiskChart();
    this.element = h("div", { class: "view" });
    this.body = h("div", { class: "view-rest" });
    this.head = h("div", { class: "title-row" });
    this.element.append(this.head, this.body);
  }

  async load() {
    const [disk, run] = await Promise.all([get(runPath(this.key, "disk")), get(runPath(this.key))]);
    this.title(`Disk · ${clean(run.name).slice(0, 40)}`);
    set(this.head, h("div", { class: "title-main" }, h("p", null, h("a", { href: address(this.key) }, h("bdi", null, clean(run.name)))), h("h1", null, "Disk")));
    this.table?.destroy();
    // Nothing is ahead of a run that is over.
    const over = disk.forecast?.saves_left === 0 || run.state === "finished";
    const parts = [this.#figures(disk, over), run.managed === false ? null : this.#overTime(disk), h("div", { class: "two" }, this.#kinds(disk), this.#frees(disk, run)), this.#table(disk)];
    set(this.body, parts.filter(Boolean));
    this.chart.show(over ? { ...disk, forecast: null } : disk);
  }

  async refresh(changed) {
    if (!changed.size || ["checkpoints", "disk", "in_flight"].some((what) => changed.has(what))) await this.load();
  }

  destroy() {
    this.table?.destroy();
    this.chart.destroy();
  }

  #figures(disk, finished) {
    const { forecast } = disk;
    const used = disk.used_bytes;
    const over = disk.budget_bytes !== null && used > disk.budget_bytes;
    const stats = [
      { id: "used", label: disk.budget_bytes ? "Used of the budget" : "Used by checkpoints", value: size(used), help: "Those that are kept, those set aside by a rewind, those in quarantine and those of previous runs: a budget counts them all.", extra: disk.budget_bytes ? meter([{ share: used / disk.budget_bytes, over }], `${percent(used, disk.budget_bytes)} of the budget`) : null, sub: disk.budget_bytes ? `${percent(used, disk.budget_bytes)} of ${size(disk.budget_bytes)}` : "no budget is set" },
      { id: "free", label: "Free on the disk", value: size(disk.free_bytes), sub: `of ${size(disk.total_bytes)}` },
      finished ? null : { id: "peak", label: "Most until the end", value: size(forecast?.peak_bytes), sub: "a new one is written beside those that are kept", help: "The planner's forecast: the most that lies on disk at once before the run ends." },
      finished ? null : { id: "end", label: "At the end", value: size(forecast?.at_end_bytes), sub: forecast?.saves_left === null || forecast?.saves_left === undefined ? "no end is known" : `after ${plural(forecast.saves_left, "more save")}` },
      finished && !forecast ? null : { id: "each", label: "Each checkpoint", value: size(forecast?.per_checkpoint_bytes), sub: "whole, with optimizer state" },
    ];
    return [strip(stats.filter(Boolean), "Disk at a glance"), forecast?.verdict && !finished ? h("p", { class: "verdict" }, clean(forecast.verdict)) : null];
  }

  #overTime(disk) {
    if (disk.over_time.length < 2) return card("Use over time", {}, empty("Not enough saves yet", "The line begins with the second checkpoint."));
    return card("Use over time", { note: this.chart.caption(disk) }, h("div", { class: "card-body" }, this.chart.element));
  }

  #kinds(disk) {
    const shown = rowsOf(disk);
    const bar = meter(shown.map((row) => ({ share: row.bytes / disk.all_bytes, colour: `var(${row.token})` })), shown.map((row) => `${row.label} ${size(row.bytes)}`).join(", "), true);
    const rows = shown.map((row) => h("li", { data: { part: row.id } }, h("i", { class: "swatch square", style: { background: `var(${row.token})` } }), h("span", null, row.label, h("span", { class: "mute" }, `: ${row.what}`)), h("b", { class: "number" }, size(row.bytes))));
    rows.push(h("li", { class: "all", data: { part: "all" } }, h("i"), h("span", null, "All in the run's directory"), h("b", { class: "number" }, size(disk.all_bytes))));
    return card("What takes the room", {}, h("div", { class: "card-body" }, shown.length ? [bar, h("ul", { class: "kinds" }, rows)] : h("p", { class: "mute" }, "Nothing is on disk yet.")));
  }

  #frees(disk, run) {
    if (run.managed === false) return card("What could go", {}, h("div", { class: "card-body commands" }, h("p", null, "keepstep does not manage this run, and removes nothing in it."), h("div", null, h("h3", null, "Have it managed"), command(`keepstep adopt ${quote(clean(run.path))}`)), h("p", null, h("a", { href: address(this.key, "policy") }, "Try rules"), h("span", { class: "mute" }, " and see what each would keep."))));
    if (run.state === "training") return card("What could go", {}, h("div", { class: "card-body commands" }, h("p", null, "A training holds this run, and prunes it itself: what no rule keeps goes with its next save", disk.frees.prune_bytes ? `, ${size(disk.frees.prune_bytes)} now` : "", ". What else lies here can be freed once it has ended."), h("p", null, h("a", { href: address(this.key, "policy") }, "Try other rules"), h("span", { class: "mute" }, " and see what each would free."))));
    const { prune_bytes: prune, thin_bytes: thin } = disk.frees;
    const path = quote(clean(run.path));
    const oldest = disk.by_checkpoint.find((row) => row.thin_frees_bytes);
    const row = (title, bytes, text, line) => h("div", null, h("h3", null, title, h("span", { class: "number-tag" }, bytes ? `frees ${size(bytes)}` : "nothing to free")), h("p", { class: "mute" }, text), line ? command(line) : null);
    return card(
      "What could go",
      {},
      h(
        "div",
        { class: "card-body commands" },
        row("Prune", prune, "Removes what no rule of the run's policy keeps. Shows its plan, and asks.", prune ? `keepstep prune ${path}` : null),
        row("Thin", thin, "Leaves the weights of a checkpoint that is not needed to resume from, and frees its optimizer state." + (thin ? " One at a time; here the oldest." : ""), thin ? `keepstep thin ${path} ${oldest.step}` : null),
        disk.parts.map((one) => wayOut(one, path)),
        h("p", null, h("a", { href: address(this.key, "policy") }, "Try other rules"), h("span", { class: "mute" }, " and see what each would free.")),
      ),
    );
  }

  #table(disk) {
    const all = (row) => row.weights + row.optimizer + row.other;
    const most = Math.max(1, ...disk.by_checkpoint.map(all));
    this.table = new Table({
      label: "Room by checkpoint",
      key: (row) => row.generation,
      link: (row) => address(this.key, "checkpoint", row.generation),
      sort: { id: "step", down: true },
      empty: "No checkpoint on disk.",
      columns: [
        { id: "step", label: "Step", width: "96px", down: true, sort: (row) => row.step, cell: (row) => count(row.step) },
        { id: "bar", label: "Room", cell: (row) => meter(["weights", "optimizer", "other"].map((id, at) => ({ share: row[id] / most, colour: `var(${KINDS[at][2]})` })), size(all(row)), true) },
        { id: "weights", label: "Weights", width: "92px", number: true, wide: true, down: true, sort: (row) => row.weights, cell: (row) => size(row.weights) },
        { id: "optimizer", label: "Optimizer", width: "92px", number: true, wide: true, down: true, sort: (row) => row.optimizer, cell: (row) => size(row.optimizer) },
        { id: "other", label: "Other", width: "84px", number: true, wide: true, sort: (row) => row.other, cell: (row) => size(row.other) },
        { id: "all", label: "Together", width: "92px", number: true, down: true, sort: all, cell: (row) => h("b", null, size(all(row))) },
      ],
    });
    this.table.setRows(disk.by_checkpoint);
    return card("By checkpoint", {}, this.table.element);
  }
}

const quote = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
