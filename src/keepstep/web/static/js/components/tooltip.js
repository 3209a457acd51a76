// One floating note beside the pointer or a focused mark; it never covers what it speaks of.

import { h, set } from "../dom.js";

const GAP = 14;
let element = null;

/** Show content near a point of the window. */
export function showTip(content, x, y) {
  if (!element) {
    element = h("div", { class: "tip", role: "tooltip" });
    document.body.append(element);
  }
  set(element, content);
  element.hidden = false;
  const { width, height } = element.getBoundingClientRect();
  const left = x + GAP + width > innerWidth ? x - GAP - width : x + GAP;
  const top = y + GAP + height > innerHeight ? y - GAP - height : y + GAP;
  element.style.transform = `translate(${Math.round(Math.max(8, left))}px, ${Math.round(Math.max(8, top))}px)`;
}

export function hideTip() {
  if (element) element.hidden = true;
}
