// What is said about a mark on the chart, and about the run as a whole, in plain words.

import { glyph, KINDS } from "../chart/glyphs.js";
import { storyOf } from "../chart/lanes.js";
import { goneOf } from "../chart/marks.js";
import { facts } from "../components/parts.js";
import { h } from "../dom.js";
import { age, count, metric, name as clean, plural, size } from "../format.js";
import { neverFinite } from "./runrow.js";

const SHOWN = 5;
const STATE = { removed: "Removed", aside: "Set aside by a rewind", quarantined: "Damaged", writing: "Being written", best: "Best, kept", kept: "Kept", thinned: "Thinned to its weights" };

/** The note beside a mark: state, metrics, size, reason. */
export function markTip(mark, summary) {
  const ranking = summary.metric?.name;
  const names = Object.keys(mark.metrics ?? {}).filter((name) => !/_runtime$|_per_second$/.test(name));
  const shown = [...new Set([ranking, ...names].filter((name) => name && names.includes(name)))].slice(0, SHOWN);
  const why = reasonOf(mark);
  return [
    h("strong", null, glyph(mark.kind), ` Step ${count(mark.step)}`),
    h("span", { class: "mute" }, ` · ${STATE[mark.kind] ?? KINDS[mark.kind].label}`),
    facts([
      ...shown.map((name) => [clean(name), metric(mark.metrics[name])]),
      ["size", mark.size_bytes === undefined ? null : size(mark.size_bytes)],
      ["written so far", mark.bytes_so_far ? size(mark.bytes_so_far) : null],
      [mark.gone ? mark.fate : "saved", mark.created || mark.time ? `${age(mark.created ?? mark.time)} ago` : null],
    ]),
    why ? h("div", { class: "why" }, why) : null,
  ];
}

/** The same as a sentence for screen readers. */
export function sayMark(mark, summary) {
  const ranking = summary.metric?.name;
  const value = mark.value === null || mark.value === undefined ? "" : `, ${ranking} ${metric(mark.value)}`;
  return `Step ${count(mark.step)}, ${STATE[mark.kind] ?? KINDS[mark.kind].label}${value}. ${reasonOf(mark)}`;
}

/** Why it is there, or why not. */
export function reasonOf(mark) {
  if (mark.kind === "writing") return "Not committed yet. A crash now would lose this save, and nothing before it.";
  if (mark.gone) return clean(mark.reason ?? "");
  if (mark.action === "remove") return "It goes next: no rule keeps it.";
  return (mark.kept_because ?? []).map(clean).join("; ");
}

/** One paragraph about the run: what the chart shows, for people who can't see it or are in a hurry. */
export function describe(summary) {
  const { metric: ranking, best, checkpoints, attempts } = summary;
  const all = goneOf(summary);
  const gone = (...kinds) => all.filter((row) => kinds.includes(row.kind)).length;
  const parts = [];
  if (best && ranking) parts.push(`Best ${clean(ranking.name)} so far: ${metric(best.value)} at step ${count(best.step)}.`);
  else if (neverFinite(summary)) parts.push(`No checkpoint is the best: ${clean(ranking.name)} is not a number in any that is kept.`);
  else if (ranking) parts.push(`No ${clean(ranking.name)} was measured yet.`);
  else parts.push("No metric ranks the checkpoints of this run.");
  const thin = checkpoints.filter((row) => row.kind === "weights").length;
  const lost = [[gone("removed", "thinned"), "removed"], [gone("set aside"), "set aside by a rewind"], [gone("quarantined"), "in quarantine"]].filter(([number]) => number);
  parts.push(`${plural(checkpoints.length, "checkpoint")} kept${thin ? `, ${count(thin)} of them weights only` : ""}${lost.map(([number, what]) => `; ${count(number)} ${what}`).join("")}.`);
  const story = storyOf(attempts, summary.state === "training");
  const faults = story.filter((one) => one.end === "killed" || one.end === "failed");
  if (story.length > 1) parts.push(`${plural(story.length, "attempt")}${faults.length ? `: ${faults.map((one) => `${one.end} at ${count(one.to)}`).slice(-4).join(", ")}` : ""}.`);
  return parts.join(" ");
}
