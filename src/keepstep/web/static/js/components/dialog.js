// A modal dialog on the browser's own element: Esc closes it, the focus stays inside and comes back afterwards.

import { h } from "../dom.js";
import { icon } from "../icons.js";

let serial = 0;

/** Open a dialog; `actions`: [{label, primary, run}]. `run` may return false to keep it open. Returns {element, close}. */
export function openDialog(title, content, actions = []) {
  serial += 1;
  const id = `dialog-${serial}`;
  const close = () => element.close();
  const buttons = actions.map(({ label, primary, run, id: name }) => {
    const button = h("button", { type: "button", class: primary ? "button primary" : "button", data: { action: name ?? label } }, label);
    button.addEventListener("click", async () => {
      button.disabled = true;
      const stay = (await run?.(button)) === false;
      button.disabled = false;
      if (!stay) close();
    });
    return button;
  });
  const shut = h("button", { type: "button", class: "button bare", "aria-label": "Close", on: { click: close } }, icon("cross"));
  const element = h(
    "dialog",
    { "aria-labelledby": id },
    h("div", { class: "dialog-head" }, h("h2", { id }, title), shut),
    h("div", { class: "dialog-body" }, content),
    actions.length ? h("div", { class: "dialog-foot" }, buttons) : null,
  );
  element.addEventListener("click", (event) => {
    if (event.target === element) close();
  });
  element.addEventListener("close", () => element.remove());
  document.body.append(element);
  element.showModal();
  return { element, close };
}
