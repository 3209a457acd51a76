// Events as sentences.

import { count, duration, metric, name as clean, size } from "../format.js";

const TONES = { committed: "good", resumed: "info", course: "info", finished: "good", preempted: "warn", removed: "", thinned: "", failed: "bad", refused: "bad", quarantined: "bad", timeline: "warn", restored: "warn", branched: "info", recovered: "warn", rebuilt: "warn", repaired: "warn", skipped: "warn", arrived: "info", mirrored: "good", not_mirrored: "warn", mirror_skipped: "warn", mirror_down: "bad", mirror_up: "good", mirror_lost: "bad" };

/** The colour of an event: what went wrong stands out. */
export const toneOf = (event) => (event.event === "verified" ? (event.ok ? "good" : "bad") : TONES[event.event] ?? "");

/** What an event says, in one sentence. */
export function sentenceOf(event) {
  const step = event.step === undefined || event.step === null ? "" : `step ${count(event.step)}`;
  const write = SENTENCES[event.event];
  return clean(write ? write(event, step) : rest(event));
}

const SENTENCES = {
  run: (event) => `The run begins; keep ${event.keep}${event.metric ? `, ranked by ${event.metric}` : ""}`,
  committed: (event, step) => `${cap(step)} is safe on disk, ${size(event.size_bytes)}${values(event.metrics)}`,
  kept: (event, step) => `${cap(step)} is kept: ${(event.reasons ?? []).join("; ")}${event.blocked_seconds === undefined ? "" : ` (held up ${duration(event.blocked_seconds)}, durable after ${duration(event.durable_seconds)})`}`,
  removed: (event, step) => `${cap(step)}${event.previous ? ` of the previous run ${event.previous}` : ""} removed, ${size(event.size_bytes)} freed: ${event.reason}`,
  thinned: (event, step) => `${cap(step)} thinned to its weights, ${size(event.freed_bytes)} freed: ${event.reason}`,
  verified: (event, step) => (event.ok ? `${cap(step)}: every byte is as written` : `${cap(step)} is damaged: ${(event.problems ?? []).join("; ")}`),
  quarantined: (event, step) => `${cap(step)} moved to quarantine: ${(event.problems ?? [event.reason]).join("; ")}`,
  metrics: (event) => `Metrics came after the commit${values(event.metrics)}`,
  timeline: (event) => `Rewound to generation ${event.from_generation}: timeline ${event.now} begins; set aside: ${(event.set_aside ?? []).map((one) => `step ${count(one)}`).join(", ") || "nothing"}`,
  resumed: (event, step) => `Resumed from ${step}, ${event.level}${event.evidence ? `, ${event.evidence}` : ""}${event.verified ? ", every byte verified" : ", not verified"}${(event.reasons ?? []).map((one) => `; ${one.text}`).join("")}${(event.passed_over ?? []).map((one) => `; passed over: ${one}`).join("")}`,
  course: (event, step) => `The resume from ${step} is ${event.level}, ${event.evidence}: ${event.course?.text ?? ""}`,
  pinned: (event, step) => `${cap(step)} pinned`,
  unpinned: (event, step) => `${cap(step)} unpinned`,
  tagged: (event, step) => `${cap(step)} tagged ${event.tag ?? event.name ?? ""}`,
  exported: (event, step) => `${event.average ? `Average of steps ${[event.average].flat().map(count).join(", ")}` : cap(step)} exported as ${article(event.kind)} to ${event.path}`,
  failed: (event, step) => `The save of ${step} failed: ${event.error}${event.retried ? "; made good with the next step" : ""}`,
  refused: (event, step) => `The save of ${step} was refused: ${event.error}`,
  skipped: (event, step) => `The save of ${step} was left out: one was still being written`,
  rebuilt: (event) => `It ${event.why}: rebuilt from ${count(event.checkpoints)} manifests; lost where there were any: ${(event.lost ?? []).join(", ")}`,
  restored: (event) => restored(event),
  branched: (event, step) => (event.into_run ? `Run ${event.into_run} begins with ${step} in ${event.path}` : `This run begins with ${step} of ${event.path}${event.from_run ? `, generation ${event.from_generation} of run ${event.from_run}` : ""}`),
  repaired: (event) => `Repaired: ${[event.what].flat().join("; ")}${(event.lost ?? []).length ? `; lost: ${event.lost.join(", ")}` : ""}`,
  recovered: (event) => `Put in order at the start: ${[event.what].flat().join(", ")}`,
  set_aside: (event) => `The run that was here, ${event.run_id}, is set aside in ${event.path}: ${event.why}`,
  forgotten: (event) => `Nothing is left of the previous run ${event.previous}`,
  preempted: (event) => `Told to stop (${event.why}) at step ${count(event.step)}${event.lost_steps ? `; ${count(event.lost_steps)} steps are lost` : ""}`,
  requested: (event) => `${event.what === "save" ? "A save" : "A stop"} is asked for, by ${event.by}`,
  answered: (event) => `Asked for a ${event.what}: ${event.answer}`,
  arrived: (event, step) => `${cap(step)} comes from ${event.origin}`,
  mirror_ahead: (event) => `The mirror ${event.url} has a newer one, of generation ${event.generation}, that did not come`,
  mirrored: (event, step) => `${cap(step)} is in the mirror ${event.url}, ${size(event.size_bytes)}`,
  unmirrored: (event, step) => `${cap(step)} removed in the mirror ${event.url}`,
  not_mirrored: (event, step) => `${cap(step)} was not sent to the mirror: ${event.why}`,
  mirror_skipped: (event) => `Never sent to the mirror: ${(event.steps ?? []).map((one) => `step ${count(one)}`).join(", ")}; ${event.why}`,
  mirror_down: (event) => `The mirror does not answer, and is tried again: ${event.why}`,
  mirror_up: () => "The mirror answers again",
  mirror_lost: (event) => `Nothing goes to the mirror any more: ${event.why}`,
  finished: () => "The training reached its end",
};

function restored(event) {
  const steps = (list) => (list ?? []).map((one) => `step ${count(one)}`).join(", ") || "nothing";
  if (event.came_from === "previous") return `Run ${event.run_id} is back: ${steps(event.restored)}; the run that was here, ${event.left}, is set aside in ${event.path}`;
  const from = event.came_from === "quarantined" ? "quarantine" : "what was set aside";
  return `Back from ${from}: ${steps(event.restored)}; set aside: ${steps(event.set_aside)}`;
}

function values(metrics) {
  const names = Object.keys(metrics ?? {}).filter((name) => !/_runtime$|_per_second$|^epoch$/.test(name)).slice(0, 3);
  return names.map((name) => `, ${name} ${metric(metrics[name])}`).join("");
}

function rest(event) {
  const fields = Object.entries(event).filter(([name]) => !["time", "event", "id"].includes(name));
  return fields.map(([name, value]) => `${name}: ${typeof value === "object" ? JSON.stringify(value) : value}`).join(", ");
}

const article = (kind) => `${/^[aeiou]/.test(kind) ? "an" : "a"} ${kind}`;
const cap = (text) => text.charAt(0).toUpperCase() + text.slice(1);
