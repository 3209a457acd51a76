// Small parts: badges, figures, commands to copy, notices, and what is shown when there is nothing, or an error.

import { announce, h } from "../dom.js";
import { icon } from "../icons.js";

/** A short label; `tone`: good, warn, bad, info, best or none. */
export const badge = (text, tone = "", mark = null) => h("span", { class: `badge ${tone}` }, mark, text);

/** A list of figures: [{label, value, sub, help}]. */
export function strip(stats, label) {
  const list = h("div", { class: "strip", role: "group", "aria-label": label });
  list.append(...stats.map(stat));
  return list;
}

function stat({ id, label, value, sub, help, extra }) {
  return h(
    "dl",
    { class: "stat", data: { stat: id ?? label }, title: help ?? null },
    h("dt", null, label),
    h("dd", { class: "clip" }, value),
    extra ? h("dd", { class: "sub" }, extra) : null,
    h("dd", { class: "sub" }, sub ?? "\u00a0"),
  );
}

/** A command in one line, with a button that copies it. */
export function command(text, what = "command") {
  const button = h("button", { type: "button", class: "button bare small", "aria-label": `Copy ${what}`, title: `Copy ${what}` }, icon("copy"));
  button.addEventListener("click", async () => {
    const done = await copy(text);
    button.replaceChildren(icon(done ? "check" : "cross"));
    announce(done ? "Copied" : "The browser refused to copy: select the text instead");
    setTimeout(() => button.replaceChildren(icon("copy")), 1600);
  });
  return h("div", { class: "copy-line" }, h("code", { tabIndex: 0 }, text), button);
}

async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/** A card with a heading; `tools` stand to its right. */
export function card(title, { tools = [], id = null, note = null } = {}, ...content) {
  const heading = h("h2", { id: id ? `${id}-title` : null }, title);
  return h(
    "section",
    { class: "card", id, "aria-label": id ? null : title, "aria-labelledby": id ? `${id}-title` : null },
    h("div", { class: "card-head" }, heading, tools),
    note ? h("p", { class: "card-note" }, note) : null,
    content,
  );
}

/** A line that something needs attention; `tone`: info, warn or bad. */
export function notice(tone, ...content) {
  return h("div", { class: `notice ${tone}` }, icon(tone === "info" ? "info" : "warning"), h("div", null, content));
}

/** A place without content, and what would bring some. */
export function empty(title, text, ...more) {
  return h("div", { class: "empty" }, h("h2", null, title), text ? h("p", null, text) : null, more);
}

/** An error where content should be, with what to do. */
export function failure(error, retry) {
  return h(
    "div",
    { class: "card empty", role: "alert" },
    h("h2", null, error.status === 404 ? "Not found" : error.status === 0 ? "No answer from the server" : "This can't be shown"),
    h("p", null, error.message),
    error.hint ? h("p", { class: "mute" }, error.hint) : null,
    h("div", { class: "group" }, h("button", { type: "button", class: "button", on: { click: retry } }, "Try again"), h("a", { class: "button", href: "#/runs" }, "All runs")),
  );
}

/** Names and values, one below the other; pairs without a value are left out. */
export function facts(pairs) {
  const shown = pairs.filter(([, value]) => value !== null && value !== undefined && value !== "");
  return h("dl", { class: "facts" }, shown.map(([label, value]) => [h("dt", null, label), h("dd", null, value)]));
}

/** A bar of parts: [{share (0 to 1), colour, label}]; a text says the same. */
export function meter(parts, label, thick = false) {
  const bars = parts.filter(({ share }) => share > 0).map(({ share, colour, over }) =>
    h("i", { class: over ? "over" : null, style: { width: `${Math.min(100, 100 * share)}%`, ...(colour ? { background: colour } : {}) } }),
  );
  return h("div", { class: thick ? "meter thick" : "meter", role: "img", "aria-label": label }, bars);
}
