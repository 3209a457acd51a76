// One checkpoint: why it is kept, what would remove it, its files, who wrote it, and the commands to use it.

import { get, post, runPath } from "../api.js";
import { glyph } from "../chart/glyphs.js";
import { kindOf } from "../chart/marks.js";
import { card, command, facts, notice } from "../components/parts.js";
import { Table } from "../components/table.js";
import { announce, h, set } from "../dom.js";
import { age, count, epoch, metric, name as clean, plural, size, time, value } from "../format.js";
import { icon } from "../icons.js";
import { address, go } from "../router.js";
import { marksCell } from "./checkpoints.js";
import { levelOf, lines, meaning } from "./receipt.js";

export class CheckpointView {
  constructor({ key, generation, about, title }) {
    Object.assign(this, { key, generation, about, title });
    this.element = h("div", { class: "view" });
    this.keys = (event) => this.#move(event);
    document.addEventListener("keydown", this.keys);
  }

  async load() {
    const path = runPath(this.key, "checkpoints", this.generation);
    const [details, run] = await Promise.all([get(path), get(runPath(this.key))]);
    const shown = JSON.stringify([details, run.checkpoints.map((row) => [row.generation, row.best, row.newest])]);
    if (shown === this.shown) return;
    this.shown = shown;
    this.order = run.checkpoints.map((row) => row.generation).sort((a, b) => a - b);
    const marks = run.checkpoints.find((row) => row.generation === this.generation) ?? {};
    this.details = { ...details, best: marks.best ?? false, newest: marks.newest ?? false };
    this.training = run.state === "training";
    this.title(`Step ${count(details.step)} · ${clean(run.name).slice(0, 40)}`);
    this.files?.destroy();
    set(this.element, this.#head(run), this.#columns(), this.#files());
  }

  async refresh(changed) {
    if (!changed.size || changed.has("checkpoints")) await this.load();
  }

  /** A verification that was asked for here, or elsewhere, has ended. */
  verified(event) {
    if (event.generation !== this.generation) return;
    if (event.ok === null) {
      set(this.check, notice("bad", event.error ?? "It could not be verified."), this.#verification());
      return;
    }
    this.details.verification = { ok: event.ok, time: event.time ?? new Date().toISOString(), problems: event.problems ?? [] };
    set(this.check, this.#verification());
    announce(event.ok ? "Every byte is as it was written" : "This checkpoint is damaged");
  }

  destroy() {
    document.removeEventListener("keydown", this.keys);
    this.files?.destroy();
  }

  #head(run) {
    const row = this.details;
    const at = this.order.indexOf(this.generation);
    const step = (sign, label, generation) =>
      generation === undefined
        ? h("span", { class: "button small", "aria-disabled": "true" }, icon(sign))
        : h("a", { class: "button small", href: address(this.key, "checkpoint", generation), "aria-label": label, title: label }, icon(sign));
    return h(
      "div",
      { class: "title-row" },
      h(
        "div",
        { class: "title-main" },
        h("p", null, h("a", { href: address(this.key) }, h("bdi", null, clean(run.name))), h("span", { class: "mute" }, " / checkpoint")),
        h("h1", null, glyph(kindOf(row)), ` Step ${count(row.step)} `, marksCell(row)),
        h("p", { class: "mute" }, `Saved ${age(row.created)} ago · ${size(row.size_bytes)} · epoch ${epoch(row.epoch)} · `, h("span", { class: "mono path" }, clean(row.path ?? row.name))),
      ),
      h("div", { class: "joined" }, step("left", "The checkpoint before (←)", this.order[at - 1]), step("right", "The next checkpoint (→)", this.order[at + 1])),
    );
  }

  #columns() {
    this.check = h("div", { class: "card-body" }, this.#verification());
    return h(
      "div",
      { class: "two" },
      h("div", { class: "stack-of" }, this.#why(), this.#metrics(), card("Verification", {}, this.check), this.#previous()),
      h("div", { class: "stack-of" }, this.#commands(), this.#receipt(), this.#written()),
    );
  }

  #why() {
    const row = this.details;
    const kept = row.action !== "remove";
    const reasons = kept ? row.kept_because : [this.training ? "No rule keeps it: the training's next save removes it." : "No rule keeps it: the next save or prune removes it."];
    const list = (items) => h("ul", { class: "reasons" }, items.map((text) => h("li", null, clean(text))));
    const until = row.removed_by.length > 1 ? "It goes once all of this has happened:" : "It goes after:";
    return card(
      this.details.managed === false ? "How it stands" : kept ? "Why it is kept" : "Why it goes",
      {},
      h("div", { class: "card-body" }, list(reasons), row.action === "thin" ? h("p", { class: "warn-text" }, "It is thinned next: weights stay, optimizer state goes.") : null, kept && row.removed_by.length ? [h("h3", { class: "apart" }, "What would remove it"), h("p", { class: "mute" }, until), list(row.removed_by)] : null),
    );
  }

  #metrics() {
    const row = this.details;
    const names = Object.keys(row.metrics);
    const place = row.rank ? `; number ${count(row.rank)} of those on disk` : "";
    const pairs = names.map((name) => [clean(name), [metric(row.metrics[name]), name === row.metric?.name ? h("span", { class: "mute" }, ` ${row.metric.mode === "min" ? "lower" : "higher"} is better${place}`) : null]]);
    return card("Metrics", {}, h("div", { class: "card-body" }, names.length ? facts(pairs) : h("p", { class: "mute" }, "None was known when it was saved, and none came later.")));
  }

  #commands() {
    const { commands, kind } = this.details;
    const rows = [
      ["Resume the training from here", commands.resume],
      ["Export the weights", commands.export],
      ["Check every byte", commands.verify],
      ["Keep it whatever the policy says", this.details.pinned ? null : commands.pin],
      ["Move it out of the way", commands.quarantine],
      ["Have keepstep manage this run", commands.adopt],
    ].filter(([, text]) => text);
    const lost = kind === "weights" ? h("p", { class: "mute" }, "Weights only: it can be loaded and exported, not resumed from.") : null;
    const { spoiled, state, can_resume: can, flaws } = this.details;
    const bad = !can && (state === "damaged" || state === "torn") ? notice("bad", h("strong", null, `This checkpoint is ${state}: nothing resumes from it. `), spoiled ? "Its weights can't be loaded either." : "Its weights can still be exported.", flaws.length ? h("ul", { class: "reasons" }, flaws.map((text) => h("li", null, clean(text)))) : null) : null;
    return card("Use it", {}, h("div", { class: "card-body commands" }, bad, lost, rows.map(([label, text]) => h("div", null, h("h3", null, label), command(text, label.toLowerCase())))));
  }

  #verification() {
    const { verification } = this.details;
    const button = h("button", { type: "button", class: "button small" }, verification ? "Verify again" : "Verify now");
    button.addEventListener("click", () => this.#verify(button));
    if (!verification && this.details.managed === false) return [h("p", null, this.details.flaws.length ? "Torn, by its structure." : "Nothing is missing, by its structure. There are no digests to compare its bytes with."), h("p", { class: "apart" }, button)];
    if (!verification) return [h("p", null, "Not verified since it was committed. Digests were computed while it was written."), h("p", { class: "apart" }, button)];
    const when = h("span", { class: "mute", title: time(verification.time) }, ` ${age(verification.time)} ago`);
    const result = verification.ok
      ? h("p", null, h("span", { class: "good-text" }, icon("check"), this.details.managed === false ? " Nothing is missing" : " Every byte is as it was written"), when)
      : [h("p", null, h("span", { class: "bad-text" }, icon("cross"), " Damaged"), when), h("ul", { class: "reasons" }, verification.problems.map((text) => h("li", null, clean(text))))];
    return [result, h("p", { class: "apart" }, button)];
  }

  async #verify(button) {
    button.disabled = true;
    set(button, "Reading every byte…");
    try {
      await post(runPath(this.key, "verify"), { generation: this.generation }, this.about?.csrf ?? "");
    } catch (error) {
      set(this.check, notice("bad", error.message, error.hint ? ` ${error.hint}` : ""), this.#verification());
    }
  }

  #receipt() {
    const { receipt } = this.details;
    if (!receipt) return null;
    const told = [...(receipt.passed_over ?? []).map((text) => clean(`passed over: ${text}`)), ...lines(receipt)];
    const head = `The training went on from here: ${levelOf(receipt)}${receipt.verified ? ", every byte verified" : ", not verified"}.`;
    const body = [h("p", null, head), h("p", { class: "mute" }, meaning(receipt))];
    if (told.length) body.push(h("ul", { class: "reasons" }, told.map((text) => h("li", null, text))));
    return card("Receipt of the resume", {}, h("div", { class: "card-body" }, body));
  }

  #written() {
    const { written_by: by, generation, timeline, parent, run_id: id } = this.details;
    const pairs = [...Object.entries(by).map(([name, thing]) => [clean(name), value(thing)]), ["generation", `${count(generation)}: the commits of a run are counted`], ["timeline", `${count(timeline)}${timeline > 1 ? ": each rewind begins another" : ""}`], ["went on from", parent === null ? "the start" : `generation ${count(parent)}`], ["in the mirror", this.details.mirror ? `${this.details.mirror.has ? "yes" : "not yet, or not kept there"}: ${clean(this.details.mirror.url)}` : null], ["run id", this.details.managed === false ? null : h("span", { class: "mono" }, clean(id))]];
    return card("Who wrote it", {}, h("div", { class: "card-body" }, facts(pairs)));
  }

  #previous() {
    const { previous } = this.details;
    if (!previous) return null;
    const link = h("a", { href: address(this.key, "checkpoint", previous.generation) }, clean(previous.name));
    const shown = (what, thing) => (/size|bytes/i.test(what) && typeof thing === "number" ? size(thing) : value(thing));
    const rows = previous.differences.map(({ what, before, after }) => h("tr", null, h("th", { scope: "row" }, clean(what)), h("td", null, shown(what, before)), h("td", null, shown(what, after))));
    const table = h("div", { class: "plain-scroll", tabIndex: 0, role: "region", "aria-label": "Differences to the checkpoint before" }, h("table", { class: "plain" }, h("thead", null, h("tr", null, h("th", { scope: "col" }, "What"), h("th", { scope: "col" }, link), h("th", { scope: "col" }, "this one"))), h("tbody", null, rows)));
    return card("Differences to the one before", {}, rows.length ? table : h("p", { class: "card-note" }, "Nothing but its contents differs from ", link, "."));
  }

  #files() {
    const { files } = this.details;
    this.files = new Table({
      label: "Files",
      key: (file) => file.path,
      columns: [
        { id: "path", label: "File", sort: (file) => file.path, cell: (file) => h("span", { class: "mono", title: clean(file.path) }, clean(file.path)) },
        { id: "size", label: "Size", width: "96px", number: true, down: true, sort: (file) => file.size_bytes, cell: (file) => size(file.size_bytes) },
        this.details.managed === false ? null : { id: "digest", label: "Digest", wide: true, width: "44%", cell: (file) => h("span", { class: "mono mute", title: file.digest }, clean(file.digest)) },
      ].filter(Boolean),
      sort: { id: "size", down: true },
    });
    this.files.setRows(files);
    return card(`${plural(files.length, "file")}`, {}, this.files.element);
  }

  #move(event) {
    if (event.target.closest?.("input, textarea, select, dialog, [role=application], .table-scroll, code") || event.ctrlKey || event.metaKey || event.altKey) return;
    const by = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const next = by && this.order?.[this.order.indexOf(this.generation) + by];
    if (next !== undefined && next) go(address(this.key, "checkpoint", next));
    else if (event.key === "Escape") go(address(this.key));
  }
}
