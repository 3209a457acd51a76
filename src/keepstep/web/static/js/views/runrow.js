// What several views say about a run.

import { badge } from "../components/parts.js";
import { h } from "../dom.js";
import { count, metric, name as clean } from "../format.js";

const STATES = {
  training: ["training", "info"],
  finished: ["finished", "good"],
  stopped: ["stopped", "warn"],
  failed: ["failed", "bad"],
  killed: ["killed", "bad"],
  new: ["new", ""],
  damaged: ["damaged", "bad"],
};
const MEANINGS = {
  training: "A process holds this run and trains",
  finished: "The training reached its end",
  stopped: "No process trains, and the last step was not reached: it ended at a signal, or nothing says how",
  failed: "The training ended with an error",
  killed: "Nobody trains, and the history has no ending: the process went without a word (SIGKILL, preemption, power)",
  new: "Nothing was saved yet",
  damaged: "The run's own file can't be read",
};

/** A run's state as a badge; a training has a beat. */
export function stateBadge(state) {
  const [label, tone] = STATES[state] ?? [state, ""];
  const mark = state === "training" ? h("span", { class: "beat", "aria-hidden": "true" }) : null;
  const element = badge(label, tone, mark);
  element.title = MEANINGS[state] ?? "";
  return element;
}

/** What says that keepstep did not write a run; null for one that it manages. */
export function managedBadge(run) {
  if (run.managed !== false) return null;
  const element = badge("not managed");
  element.title = "Others wrote its checkpoints: there are no digests, and keepstep changes nothing in it";
  return element;
}

/** `7,460 of 10,000`, or the step alone. */
export const progress = (run) =>
  run.step === null ? (run.problem ? "–" : "not started") : run.max_steps ? `${count(run.step)} of ${count(run.max_steps)}` : `step ${count(run.step)}`;

/** `0.684 at step 6,200`, or why there is none. */
export function bestText(run) {
  if (!run.metric) return "no metric: nothing is ranked";
  return run.best ? `${metric(run.best.value)} at step ${count(run.best.step)}` : "nothing evaluated yet";
}

/** `eval_loss, lower is better`. */
export const metricText = (found) => (found ? `${clean(found.name)}, ${found.mode === "min" ? "lower" : "higher"} is better` : "no metric");

/** True where the metric was measured, and no value of it is a number: a training that diverged. */
export const neverFinite = (run) =>
  run.metric !== null && !run.best && (run.checkpoints ?? []).some((row) => typeof row.metrics?.[run.metric.name] === "string");

/** How many findings, by severity. */
export function findingBadges(findings) {
  if (!findings) return h("span", { class: "mute", title: "Not examined yet" }, "–");
  const parts = [["error", "bad"], ["warning", "warn"], ["hint", "info"]]
    .filter(([name]) => findings[name])
    .map(([name, tone]) => badge(`${findings[name]} ${name}${findings[name] === 1 ? "" : "s"}`, tone));
  return parts.length ? h("span", { class: "cell-marks" }, parts) : h("span", { class: "mute" }, "none");
}
