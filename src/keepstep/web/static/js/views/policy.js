// The policy sandbox: change the rules and see at once what stays and what goes, now and over the run's whole past.

import { get, runPath } from "../api.js";
import { badge, card, strip } from "../components/parts.js";
import { Table } from "../components/table.js";
import { announce, debounce, h, set } from "../dom.js";
import { count, metric, name as clean, plural, size } from "../format.js";
import { address } from "../router.js";
import { confirmApply } from "./apply.js";
import { Replay } from "./replay.js";

const PRESETS = ["latest:2", "best:3,latest:2", "best:3:full,latest:2", "best:5,latest:2,every:1000", "all"];
const RULES = [
  ["best:3", "the best 3 by the metric, weights only once newer ones exist"],
  ["best:3:full", "the same, whole"],
  ["latest:2", "the newest 2 that can be resumed from"],
  ["every:1000", "each step that is a multiple of 1,000"],
  ["pending:6h", "what has no value of the metric yet, for 6 hours"],
  ["within:6h", "all of the last 6 hours"],
  ["hourly:12, daily:7", "the newest of each hour, of each day"],
  ["pinned", "everything that a person pinned: always in force, whether written or not"],
  ["all", "everything, as long as there is room"],
];
const ACTIONS = { keep: ["stays", "good"], thin: ["thinned", "warn"], remove: ["goes", "bad"] };

export class PolicyView {
  constructor({ key, about, title }) {
    Object.assign(this, { key, about, title });
    this.try = debounce(() => this.#try(), 180);
    this.keep = h("input", { class: "mono", id: "keep", autocomplete: "off", spellcheck: "false", "aria-describedby": "policy-error keep-help", on: { input: this.try } });
    this.budget = h("input", { class: "mono", id: "budget", autocomplete: "off", spellcheck: "false", placeholder: "none, or 200GB", "aria-describedby": "policy-error", on: { input: this.try } });
    this.error = h("div", { class: "field-error", id: "policy-error", role: "alert" });
    this.presets = h("div", { class: "group", role: "group", "aria-label": "Common rules" });
    this.result = h("div", { class: "view-rest" });
    this.figures = h("div");
    this.replay = new Replay();
    this.head = h("div", { class: "title-row" });
    this.apply = h("button", { type: "button", class: "button primary", id: "apply", disabled: true, on: { click: () => this.#apply() } }, "Apply…");
    this.why = h("p", { class: "mute", id: "apply-why" });
    this.element = h("div", { class: "view" }, this.head);
  }

  async load() {
    this.run = await get(runPath(this.key));
    this.title(`Policy · ${clean(this.run.name).slice(0, 40)}`);
    this.table?.destroy();
    this.table = this.#table();
    set(this.result);
    const { policy, budget_bytes: budget } = this.run;
    this.keep.value = policy.keep;
    this.budget.value = budget ? exact(budget) : "";
    set(
      this.head,
      h("div", { class: "title-main" }, h("p", null, h("a", { href: address(this.key) }, h("bdi", null, clean(this.run.name)))), h("h1", null, "Policy sandbox"), h("p", { class: "mute" }, this.run.managed === false ? "What would rules keep of this run? Nothing is in force, and nothing changes." : ["Try rules on this run. Nothing changes until you apply them. In force now: ", h("b", null, clean(policy.text)), "."])),
    );
    const choose = (spec) => {
      this.keep.value = spec;
      this.#try();
    };
    const specs = [...new Set([policy.keep, ...PRESETS])].filter((spec) => policy.metric || !spec.includes("best"));
    set(this.presets, specs.map((spec) => h("button", { type: "button", class: "button small mono", data: { preset: spec }, on: { click: () => choose(spec) } }, spec === policy.keep && this.run.managed !== false ? `${spec} (in force)` : spec)));
    set(this.element, this.head, this.#form(), this.figures, this.result);
    await this.#try();
  }

  async refresh(changed) {
    if (changed.size && !changed.has("checkpoints")) return;
    this.run = await get(runPath(this.key));
    await this.#try();
  }

  destroy() {
    this.try.cancel();
    this.table?.destroy();
    this.replay.destroy();
  }

  #form() {
    const help = h("details", { class: "rules" }, h("summary", null, "What the rules mean"), h("dl", { class: "facts" }, RULES.map(([rule, what]) => [h("dt", { class: "mono" }, rule), h("dd", null, what)])), h("p", { class: "mute" }, "Rules are joined by commas: a checkpoint stays when any of them keeps it. Pinned and tagged ones, and the newest that can be resumed from, always stay."));
    return h(
      "section",
      { class: "card", "aria-label": "Rules to try" },
      h(
        "form",
        { class: "card-body policy-form", on: { submit: (event) => event.preventDefault() } },
        h("label", { class: "field keep-field" }, "Keep", this.keep),
        h("label", { class: "field" }, "Budget", this.budget),
        h("div", { class: "apply-field" }, this.apply),
        h("div", { class: "policy-more" }, this.error, this.presets, h("div", { id: "keep-help" }, help), this.why),
      ),
    );
  }

  /** Try the rules as they are written now. Whoever waits for an earlier try waits for this one, which ends it. */
  #try() {
    this.asked?.abort();
    this.asked = new AbortController();
    this.tried = this.#ask(this.asked.signal);
    return this.tried;
  }

  async #ask(signal) {
    const keep = this.keep.value.trim();
    const parameters = { keep, budget: this.budget.value.trim() };
    for (const button of this.presets.children) button.setAttribute("aria-pressed", String(button.dataset.preset === keep));
    try {
      const path = runPath(this.key);
      const [plan, replay] = await Promise.all([get(`${path}/plan`, parameters, signal), get(`${path}/replay`, parameters, signal).catch(ignore)]);
      this.plan = plan;
      this.#valid();
      this.#show(plan, replay);
    } catch (error) {
      if (error.name === "AbortError") return signal.aborted ? this.tried : undefined;
      if (error.status !== 400) throw error;
      this.#invalid(error);
    }
  }

  #valid() {
    set(this.error);
    for (const input of [this.keep, this.budget]) input.removeAttribute("aria-invalid");
    this.result.classList.remove("stale");
    this.figures.classList.remove("stale");
  }

  #invalid(error) {
    this.plan = null;
    const culprit = /budget|size|unit/i.test(error.message) && !/rule|keep|policy/i.test(error.message) ? this.budget : this.keep;
    culprit.setAttribute("aria-invalid", "true");
    set(this.error, h("b", null, error.message), error.hint ? ` ${error.hint}` : "");
    this.result.classList.add("stale");
    this.figures.classList.add("stale");
    this.apply.disabled = true;
  }

  #show(plan, replay) {
    const rows = [...plan.rows, ...plan.aside];
    const of = (action) => rows.filter((row) => row.action === action);
    const [kept, thinned, gone] = [of("keep"), of("thin"), of("remove")];
    const changes = new Set(plan.changes);
    const stats = [
      { id: "kept", label: "Stays", value: count(kept.length), sub: thinned.length ? `and ${plural(thinned.length, "checkpoint")} thinned to weights` : plural(kept.length, "checkpoint").replace(/^\S+ /, "") },
      { id: "gone", label: "Goes", value: count(gone.length), sub: gone.length ? gone.slice(0, 4).map((row) => count(row.step)).join(", ") + (gone.length > 4 ? ", …" : "") : "nothing" },
      { id: "bytes", label: "On disk afterwards", value: size(plan.kept_bytes + plan.kept_aside_bytes), sub: plan.budget_bytes ? `of a budget of ${size(plan.budget_bytes)}` : "no budget" },
      { id: "freed", label: "Freed", value: size(plan.freed_bytes), sub: plan.freed_bytes ? "at once" : "nothing to free" },
      this.run.managed === false ? null : { id: "changes", label: "Differs from the policy in force", value: count(changes.size), sub: changes.size ? `for ${plural(changes.size, "checkpoint")}` : "for no checkpoint" },
    ];
    set(this.figures, strip(stats.filter(Boolean), "What these rules do"));
    const metrics = new Map(this.run.checkpoints.map((one) => [one.generation, one.metrics]));
    // Generations of a previous run are its own, and say nothing of this one's.
    const own = (row) => row.run_id === plan.run_id;
    this.table.setRows(rows.map((row) => ({ ...row, changed: own(row) && changes.has(row.generation), metrics: (own(row) && metrics.get(row.generation)) || {} })));
    this.replay.show(replay);
    if (!this.result.childElementCount) set(this.result, card("Now: what stays, what goes", {}, this.table.element), this.replay.element);
    this.#may(plan);
    announce(`${plural(kept.length + thinned.length, "checkpoint")} stay, ${gone.length} go, ${size(plan.freed_bytes)} freed`);
  }

  #may(plan) {
    const same = plan.keep === this.run.policy.keep && !plan.freed_bytes && (plan.budget_bytes ?? null) === (this.run.budget_bytes ?? null);
    let why = "";
    if (this.run.managed === false) why = `A what-if only: keepstep does not manage this run, and removes nothing in it. To have it managed: keepstep adopt ${clean(this.run.path)}`;
    else if (!this.about?.writable) why = `To apply rules from this page, end the server with Ctrl-C and start it with: keepstep ui ${clean(this.run.path)} --allow-write`;
    else if (this.run.state === "training") why = "A training holds this run: stop it, or give the rules to the training itself.";
    else if (same) why = "These are the rules in force, and there is nothing to remove.";
    this.apply.disabled = Boolean(why);
    this.apply.setAttribute("aria-describedby", "apply-why");
    set(this.why, why);
  }

  #apply() {
    if (!this.plan) return;
    confirmApply({ key: this.key, plan: this.plan, budget: this.budget.value.trim(), csrf: this.about.csrf, same: this.plan.keep === this.run.policy.keep, again: () => this.#try().then(() => this.plan), done: () => this.load() });
  }

  #table() {
    const ranking = () => this.run?.metric?.name;
    return new Table({
      label: "What these rules do with each checkpoint",
      key: (row) => `${row.state}${row.run_id}${row.generation}`,
      link: (row) => (row.state === "committed" ? address(this.key, "checkpoint", row.generation) : null),
      mark: (row) => [row.action === "remove" ? "gone" : "", row.changed ? "changed" : ""].join(" ").trim(),
      sort: { id: "step", down: true },
      stacked: true,
      empty: "No checkpoint on disk.",
      columns: [
        { id: "step", label: "Step", width: "96px", down: true, sort: (row) => row.step, cell: (row) => count(row.step) },
        { id: "action", label: "What happens", width: "190px", sort: (row) => row.action, cell: (row) => h("span", { class: "cell-marks" }, badge(...ACTIONS[row.action]), row.state === "committed" ? null : badge(row.state), row.changed ? badge("changes", "info") : null) },
        { id: "metric", label: clean(ranking() ?? "Metric"), width: "104px", number: true, wide: true, sort: (row) => row.metrics[ranking()], cell: (row) => metric(row.metrics[ranking()]) },
        { id: "size", label: "Size", width: "84px", number: true, down: true, sort: (row) => row.size_bytes, cell: (row) => size(row.size_bytes) },
        { id: "why", label: "Why", cell: (row) => h("span", { title: row.reasons.map(clean).join("; ") }, row.reasons.map(clean).join("; ")) },
      ],
    });
  }
}

function ignore(error) {
  if (error.name === "AbortError" || error.status === 0) throw error;
  return null;
}

/** Bytes as the server reads them back without loss. */
function exact(bytes) {
  for (const [unit, factor] of [["TB", 1e12], ["GB", 1e9], ["MB", 1e6], ["GiB", 2 ** 30], ["MiB", 2 ** 20]]) {
    const number = bytes / factor;
    if (number >= 1 && Number(number.toFixed(3)) === number) return `${number}${unit}`;
  }
  return `${bytes / 1e6}MB`;
}
