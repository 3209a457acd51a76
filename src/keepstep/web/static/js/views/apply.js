// Applying a plan: what it will do is shown once more, and nothing but that is done.

import { post, runPath } from "../api.js";
import { notice } from "../components/parts.js";
import { openDialog } from "../components/dialog.js";
import { announce, h, set } from "../dom.js";
import { count, plural, size } from "../format.js";

/** Ask, then apply. `again` makes the plan anew and returns it, after the run changed; `done` is called afterwards. */
export function confirmApply({ key, plan, budget, csrf, same, again, done }) {
  const said = h("div", { role: "alert" });
  const list = h("div");
  const box = h("input", { type: "checkbox", checked: !same, disabled: same });
  let current = plan;
  const draw = () => set(list, summary(current));
  draw();
  const run = async (button) => {
    try {
      const answer = await post(runPath(key, "apply"), { keep: current.keep, budget: budget || null, digest: current.digest, set_policy: box.checked }, csrf);
      announce(`Done: ${size(answer.freed_bytes)} freed`);
      await done();
      return true;
    } catch (error) {
      const stale = error.status === 409;
      set(said, notice(stale ? "warn" : "bad", h("strong", null, error.message), error.hint ? ` ${error.hint}` : ""));
      if (stale) {
        current = (await again()) ?? current;
        draw();
        set(button, "Apply this plan");
      }
      return false;
    }
  };
  const choice = h("label", { class: "check" }, box, same ? "These rules are in force already" : "Make these rules the run's policy from now on");
  openDialog("Apply this plan?", [said, list, choice], [{ label: "Cancel" }, { label: "Apply", id: "confirm", primary: true, run }]);
}

function summary(plan) {
  const rows = [...plan.rows, ...plan.aside].filter((row) => row.action !== "keep");
  const gone = rows.filter((row) => row.action === "remove");
  const thin = rows.length - gone.length;
  const text = rows.length
    ? [`${plural(gone.length, "checkpoint")} will be removed${thin ? `, ${count(thin)} thinned to weights` : ""}, and ${size(plan.freed_bytes)} freed. `, h("b", null, "This can't be undone.")]
    : "No checkpoint is removed or thinned by this.";
  const lines = rows.map((row) => h("li", null, h("span", null, `${row.action === "remove" ? "remove" : "thin"} `, h("b", null, `step ${count(row.step)}`)), h("span", { class: "mute clip" }, row.reasons.join("; ")), h("span", { class: "nowrap" }, size(row.size_bytes))));
  return [h("p", null, text), rows.length ? h("ul", { class: "plan-list apart", tabIndex: 0, "aria-label": "What is removed or thinned" }, lines) : null];
}
