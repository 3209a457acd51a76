// The figures on top of a run: next save, budget, last commit, durability, stalls, best, and the mirror where it has one.

import { meter, strip } from "../components/parts.js";
import { h } from "../dom.js";
import { age, count, duration, metric, name as clean, percent, size, time } from "../format.js";
import { address } from "../router.js";
import { neverFinite } from "./runrow.js";

export class RunStrip {
  constructor() {
    this.element = h("div", { class: "strip-place" });
    this.clock = setInterval(() => this.run && this.#tick(), 5000);
  }

  destroy() {
    clearInterval(this.clock);
  }

  set(run) {
    this.run = run;
    const stats = [best(run), nextSave(run), lastCommit(run), budget(run), durable(run), stall(run), ...mirror(run)];
    // A link that has the focus stays; the next change brings the figures up to date.
    if (this.element.contains(document.activeElement)) return;
    const fresh = strip(stats, "The run at a glance");
    this.element.replaceChildren(fresh);
  }

  /** Ages grow by themselves. */
  #tick() {
    const cell = this.element.querySelector('[data-stat="last"] dd');
    if (cell && this.run.last_commit) cell.textContent = `${age(this.run.last_commit)} ago`;
  }
}

/** Why nothing is the best: nothing was measured, or nothing that was is a number. */
function unranked(run) {
  return neverFinite(run) ? `${clean(run.metric.name)} is not a number in any that is kept` : "nothing evaluated yet";
}

function best(run) {
  const help = "The checkpoint to ship: the best by the metric. To resume, the newest is used.";
  if (!run.best) return { id: "best", label: "Best", value: "–", sub: run.metric ? unranked(run) : "no metric: nothing is ranked", help };
  const value = h("a", { href: address(run.key, "checkpoint", run.best.generation) }, metric(run.best.value));
  const sub = `step ${count(run.best.step)}, ${run.metric.mode === "min" ? "lower" : "higher"} is better${sure(run)}`;
  return { id: "best", label: `Best ${clean(run.metric.name)}`, value, sub, help: run.certainty ? `${help} ${clean(run.certainty.text)}.` : help };
}

/** Which others can't be told from the best, by the noise of the metric. */
function sure(run) {
  const ties = run.certainty?.ties ?? [];
  if (!ties.length) return "";
  const more = ties.length > 3 ? ` and ${count(ties.length - 3)} more` : "";
  return `; a tie with ${ties.slice(0, 3).map(count).join(", ")}${more}`;
}

function nextSave(run) {
  const help = "When the next checkpoint is due. A new best that is asked for is saved at once, in between.";
  if (run.in_flight) {
    const at = run.in_flight.step === null ? "a checkpoint" : `step ${count(run.in_flight.step)}`;
    return { id: "next", label: "Saving now", value: at, sub: `${size(run.in_flight.bytes_so_far)} written, not committed yet`, help };
  }
  if (!run.next_save) return { id: "next", label: "Next save", value: "–", sub: run.state === "training" ? "no cadence known" : "not training", help };
  const { step, in_steps: steps, eta_s: eta } = run.next_save;
  return { id: "next", label: "Next save", value: step === null ? "–" : `step ${count(step)}`, sub: `in ${count(steps)} steps${eta === null ? "" : `, about ${duration(eta)}`}`, help };
}

function lastCommit(run) {
  const help = `What a crash right now would go back to. ${run.last_commit ? time(run.last_commit) : ""}`;
  const latest = run.latest ? h("a", { href: address(run.key, "checkpoint", run.latest.generation) }, `step ${count(run.latest.step)}`) : "nothing saved yet";
  const behind = run.latest && run.step !== null && run.state === "training" ? `, ${count(Math.max(0, run.step - run.latest.step))} steps ago` : "";
  return { id: "last", label: "Last commit", value: run.last_commit ? `${age(run.last_commit)} ago` : "–", sub: [latest, behind], help };
}

function budget(run) {
  const { aside_bytes: aside } = run.disk;
  const used = run.size_bytes + aside;
  const lying = aside ? `${size(aside)} of it set aside, in quarantine or of previous runs; ` : "";
  if (!run.budget_bytes) {
    return { id: "disk", label: "On disk", value: h("a", { href: address(run.key, "disk") }, size(used)), sub: `${lying}no budget; ${size(run.free_bytes)} free`, help: "Bytes of all checkpoints of this run." };
  }
  const bar = meter([{ share: used / run.budget_bytes, over: used > run.budget_bytes }], `${percent(used, run.budget_bytes)} of the budget used`);
  return { id: "disk", label: "Disk budget", value: h("a", { href: address(run.key, "disk") }, size(used)), extra: bar, sub: `${percent(used, run.budget_bytes)} of ${size(run.budget_bytes)}; ${lying}${size(run.free_bytes)} free`, help: "Bytes of all checkpoints of this run against its budget." };
}

function durable(run) {
  const help = "Time from the step that was saved until its checkpoint was safe on disk: what a power loss in between would cost.";
  return { id: "lag", label: "Safe on disk after", value: duration(run.durability_lag_s), sub: run.durability_lag_s === null ? "not measured yet" : "for the last save", help };
}

/** How far the mirror is behind; nothing of a run without one. */
function mirror(run) {
  const found = run.mirror;
  if (!found) return [];
  const help = `What a machine without this disk would go back to. ${clean(found.text)}.`;
  const [value, tone] = {
    whole: ["up to date", ""],
    behind: [`${count(found.waiting)} waiting`, ""],
    sending: [`${duration(found.lag_seconds)} behind`, ""],
    down: ["no answer", "bad-text"],
    lost: ["ended", "bad-text"],
  }[found.standing] ?? [clean(found.standing), ""];
  const share = found.sending?.size_bytes ? found.sending.sent_bytes / found.sending.size_bytes : 0;
  const bar = found.standing === "sending" ? meter([{ share }], `${percent(found.sending.sent_bytes, found.sending.size_bytes)} of step ${count(found.sending.step)} is there`) : null;
  return [{ id: "mirror", label: "Mirror", value: tone ? h("span", { class: tone }, value) : value, extra: bar, sub: `${mirrorWords(found)}; ${clean(found.url)}`, help }];
}

function mirrorWords(found) {
  const newest = found.newest_step === null ? "nothing to resume from there" : `step ${count(found.newest_step)} is there`;
  if (found.standing === "whole") return newest;
  const waiting = `${size(found.waiting_bytes)} to go`;
  if (found.standing === "down" && found.trouble_since !== null) return `for ${duration(Date.now() / 1000 - found.trouble_since)}: ${clean(found.trouble)}; ${newest}, ${waiting}`;
  if (found.standing === "lost") return `${clean(found.trouble)}; ${newest}`;
  return `${newest}, ${waiting}${found.bytes_per_second && found.standing === "sending" ? ` at ${size(found.bytes_per_second)}/s` : ""}`;
}

function stall(run) {
  const help = "How long the training stood still for a save.";
  const { stalls } = run;
  if (!stalls?.count) return { id: "stall", label: "Training held up", value: "–", sub: "not measured yet", help };
  return { id: "stall", label: "Training held up", value: duration(stalls.last_s), sub: `by the last save; median ${duration(stalls.median_s)}, most ${duration(stalls.max_s)}`, help };
}
