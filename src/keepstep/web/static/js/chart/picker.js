// What the chart shows: which metrics, a logarithmic scale, smoothing, and the window.

import { h, set } from "../dom.js";
import { name as clean } from "../format.js";
import { icon } from "../icons.js";

/** The tools above the chart. `on`: {panels(ids), log(on), smooth(on), zoom(factor), whole()}. */
export class Picker {
  constructor(state, on) {
    Object.assign(this, { state, on });
    this.log = toggle("Log scale", "A logarithmic scale of values", state.log, (yes) => on.log(yes));
    this.smooth = toggle("Smooth", "An average over the points shown; the points stay, faintly", state.smooth, (yes) => on.smooth(yes));
    this.list = h("div", { class: "menu-list", role: "group", "aria-label": "Metrics to show" });
    this.label = h("summary", { class: "button small" }, "Metrics");
    this.menu = h("details", { class: "menu" }, this.label, this.list);
    this.menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape" || !this.menu.open) return;
      this.menu.open = false;
      this.label.focus();
    });
    this.away = (event) => {
      if (this.menu.open && !this.menu.contains(event.target)) this.menu.open = false;
    };
    document.addEventListener("pointerdown", this.away);
    const button = (sign, label, action) =>
      h("button", { type: "button", class: "button small", "aria-label": label, title: label, on: { click: action } }, icon(sign));
    this.whole = button("whole", "Show the whole run (0)", () => on.whole());
    this.element = h(
      "div",
      { class: "group tools-row" },
      this.menu,
      this.log,
      this.smooth,
      h("span", { class: "joined" }, button("minus", "Zoom out (−)", () => on.zoom(2)), button("plus", "Zoom in (+)", () => on.zoom(0.5)), this.whole),
    );
  }

  /** The metrics there are, by panel; `open` are the ids that are shown. */
  set(groups, open) {
    const shape = JSON.stringify([groups, open]);
    if (shape === this.shape) return;
    this.shape = shape;
    set(this.label, `Metrics (${open.length} of ${groups.length})`);
    const boxes = groups.map((group) => {
      const box = h("input", { type: "checkbox", checked: open.includes(group.id), data: { panel: group.id } });
      box.addEventListener("change", () => {
        const now = groups.map((one) => one.id).filter((id) => (id === group.id ? box.checked : open.includes(id)));
        this.on.panels(now);
        this.list.querySelector(`input[data-panel="${CSS.escape(group.id)}"]`)?.focus();
      });
      return h("label", { class: "check" }, box, h("span", null, group.names.map(clean).join(", ")));
    });
    set(this.list, boxes);
  }

  setWhole(whole) {
    this.whole.disabled = whole;
  }

  destroy() {
    document.removeEventListener("pointerdown", this.away);
  }
}

function toggle(label, title, pressed, action) {
  const button = h("button", { type: "button", class: "button small", "aria-pressed": String(Boolean(pressed)), title }, label);
  button.addEventListener("click", () => {
    const now = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", String(now));
    action(now);
  });
  return button;
}
