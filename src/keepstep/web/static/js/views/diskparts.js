// What the bytes of a run are, part by part: its kinds, what lies beside its checkpoints, and what frees each.

import { command } from "../components/parts.js";
import { h } from "../dom.js";
import { name as clean, plural, size } from "../format.js";

export const KINDS = [
  ["weights", "Weights", "--cat-1", "what a model is loaded from"],
  ["optimizer", "Optimizer and training state", "--cat-3", "what only a resume needs"],
  ["other", "Small files", "--cat-2", "tokenizer, configuration, the run's own records"],
];

const PARTS = {
  writing: ["Being written", "--cat-6", "the save in flight: a checkpoint once it is committed"],
  left_over: ["Left over", "--line-strong", "half-written or half-removed; the next training or prune clears it"],
  set_aside: ["Set aside by a rewind", "--cat-5", "checkpoints of a course that was left; they stay until they are pruned, or room is short"],
  quarantined: ["In quarantine", "--bad", "checkpoints that were found damaged; they stay until they are pruned, or room is short"],
  previous: ["Previous runs", "--cat-4", "what a fresh start set aside, and what lay in its way; its checkpoints stay until they are pruned, or room is short"],
};
const UNMANAGED = ["Not managed", "--text-mute", "checkpoints that keepstep did not commit; it never removes them"];

const FREES = {
  set_aside: "Removes what a rewind set aside",
  quarantined: "Removes what was found damaged",
  previous: "Removes the runs that a fresh start set aside",
};

/** Rows of all there is: [{id, label, token, what, bytes}], which add up to `all_bytes`. */
export function rowsOf(disk) {
  const rows = KINDS.map(([id, label, token, what]) => ({ id, label, token, what, bytes: disk.kinds[id] }));
  for (const one of disk.parts) {
    const [label, token, what] = PARTS[one.part];
    rows.push({ id: one.part, label: one.checkpoints ? `${label}, ${plural(one.checkpoints, "checkpoint")}` : label, token, what, bytes: one.size_bytes });
  }
  const [label, token, what] = UNMANAGED;
  const names = disk.unmanaged.map((one) => `${clean(one.name)} (${clean(one.reason)})`).join(", ");
  rows.push({ id: "unmanaged", label, token, what: names ? `${what}: ${names}` : what, bytes: disk.kinds.unmanaged });
  return rows.filter((row) => row.bytes);
}

/** How each part that stays is freed: a heading, what happens, and the command; null where it goes by itself. */
export function wayOut(one, path) {
  const [label] = PARTS[one.part];
  const row = (tag, ...content) => h("div", { data: { part: one.part } }, h("h3", null, label, h("span", { class: "number-tag" }, tag)), ...content);
  const text = (words) => h("p", { class: "mute" }, words);
  if (!(one.part in FREES)) return null;
  const stay = one.held ? ` ${plural(one.held, "checkpoint")} of it ${one.held === 1 ? "is" : "are"} pinned or tagged, and stay${one.held === 1 ? "s" : ""}.` : "";
  if (!one.command) {
    const why = one.checkpoints ? stay.trim() : "Nothing in there can be read as a checkpoint: look, and delete it by hand.";
    return row(size(one.size_bytes), text(why));
  }
  // Beside previous runs there may be what only lay in the way, which stays.
  return row(`${one.held || one.part === "previous" ? "up to " : "frees "}${size(one.size_bytes)}`, text(`${FREES[one.part]}, and what no rule keeps. Shows its plan, and asks.${stay}`), command(clean(one.command)));
}
