// One sign for each state of a checkpoint: told apart by shape first, by colour second.

import { openDialog } from "../components/dialog.js";
import { h, s } from "../dom.js";
import { colour } from "../theme.js";

export const KINDS = {
  best: { label: "best", meaning: "the best by the metric", token: "--mark-best", rank: 6 },
  writing: { label: "being written", meaning: "not committed yet: a crash now would lose it", token: "--cat-1", rank: 5 },
  quarantined: { label: "damaged", meaning: "found damaged, or torn: never resumed from; kept apart once it is in quarantine", token: "--bad", rank: 4 },
  kept: { label: "kept", meaning: "whole: can be resumed from", token: "--cat-1", rank: 3 },
  thinned: { label: "thinned", meaning: "weights only: can be loaded, not resumed from", token: "--cat-1", rank: 2 },
  aside: { label: "set aside", meaning: "left behind by a rewind; kept apart on disk", token: "--cat-5", rank: 1 },
  removed: { label: "removed", meaning: "gone, with a reason", token: "--mark-gone", rank: 0 },
};

const STAR = Array.from({ length: 10 }, (_, corner) => {
  const [angle, length] = [(Math.PI * corner) / 5 - Math.PI / 2, corner % 2 ? 0.46 : 1];
  return [Math.cos(angle) * length, Math.sin(angle) * length];
});

/** Draw a sign of radius `r` (device pixels) on a canvas. */
export function drawGlyph(context, kind, x, y, r, lit = false) {
  const ink = colour(KINDS[kind].token);
  const ground = colour("--surface");
  context.save();
  context.translate(x, y);
  context.lineWidth = Math.max(1, r * 0.34);
  context.strokeStyle = ink;
  context.fillStyle = ground;
  if (lit) {
    context.beginPath();
    context.arc(0, 0, r * 2.1, 0, 2 * Math.PI);
    context.globalAlpha = 0.22;
    context.fillStyle = ink;
    context.fill();
    context.globalAlpha = 1;
    context.fillStyle = ground;
  }
  DRAW[kind](context, r, ink, ground);
  context.restore();
}

const DRAW = {
  best(context, r, ink) {
    context.beginPath();
    for (const [x, y] of STAR) context.lineTo(x * r * 1.75, y * r * 1.75);
    context.closePath();
    context.lineJoin = "round";
    context.lineWidth = Math.max(1, r * 0.24);
    context.strokeStyle = colour("--mark-best-edge");
    context.fillStyle = ink;
    context.fill();
    context.stroke();
  },
  kept(context, r, ink, ground) {
    circle(context, r);
    context.fillStyle = ink;
    context.fill();
    context.strokeStyle = ground;
    context.lineWidth = Math.max(1, r * 0.25);
    context.stroke();
  },
  thinned(context, r, ink, ground) {
    circle(context, r);
    context.fillStyle = ground;
    context.fill();
    context.beginPath();
    context.arc(0, 0, r, 0, Math.PI);
    context.fillStyle = ink;
    context.fill();
    circle(context, r);
    context.stroke();
  },
  removed(context, r) {
    circle(context, r * 0.85);
    context.fill();
    context.stroke();
  },
  aside(context, r) {
    context.beginPath();
    context.moveTo(0, -r * 1.15);
    context.lineTo(r * 1.15, 0);
    context.lineTo(0, r * 1.15);
    context.lineTo(-r * 1.15, 0);
    context.closePath();
    context.fill();
    context.stroke();
  },
  quarantined(context, r, ink, ground) {
    const reach = r * 0.95;
    for (const [style, width] of [[ground, r * 1.1], [ink, r * 0.5]]) {
      context.strokeStyle = style;
      context.lineWidth = width;
      context.lineCap = "round";
      context.beginPath();
      context.moveTo(-reach, -reach);
      context.lineTo(reach, reach);
      context.moveTo(reach, -reach);
      context.lineTo(-reach, reach);
      context.stroke();
    }
  },
  writing(context, r) {
    circle(context, r);
    context.fill();
    context.setLineDash([r * 0.7, r * 0.6]);
    context.stroke();
  },
};

function circle(context, r) {
  context.beginPath();
  context.arc(0, 0, r, 0, 2 * Math.PI);
}

/** The same sign as an SVG element, for tables and legends. */
export function glyph(kind) {
  const shapes = {
    best: () => [s("path", { d: `M${STAR.map(([x, y]) => `${7 + x * 6.6} ${7.3 + y * 6.6}`).join("L")}Z`, class: "g-best" })],
    kept: () => [s("circle", { cx: 7, cy: 7, r: 4.5, class: "g-fill" })],
    thinned: () => [s("circle", { cx: 7, cy: 7, r: 4, class: "g-line" }), s("path", { d: "M3 7a4 4 0 0 0 8 0Z", class: "g-fill" })],
    removed: () => [s("circle", { cx: 7, cy: 7, r: 3.6, class: "g-gone" })],
    aside: () => [s("path", { d: "M7 2.4 11.6 7 7 11.6 2.4 7Z", class: "g-aside" })],
    quarantined: () => [s("path", { d: "M3.2 3.2l7.6 7.6M10.8 3.2l-7.6 7.6", class: "g-bad" })],
    writing: () => [s("circle", { cx: 7, cy: 7, r: 4.2, class: "g-line g-dash" })],
  };
  return s("svg", { viewBox: "0 0 14 14", class: "glyph", "aria-hidden": "true" }, shapes[kind]());
}

/** What the signs mean, those that occur. */
export function legend(kinds) {
  const shown = Object.keys(KINDS).filter((kind) => kinds.has(kind));
  return [
    h("ul", { class: "legend", "aria-label": "Signs on the chart" }, shown.map((kind) => h("li", { title: KINDS[kind].meaning }, glyph(kind), KINDS[kind].label))),
    h("button", { type: "button", class: "plain-button", on: { click: explain } }, "What do the signs mean?"),
  ];
}

function explain() {
  const rows = Object.keys(KINDS).map((kind) => [h("dt", null, glyph(kind), ` ${KINDS[kind].label}`), h("dd", null, KINDS[kind].meaning)]);
  const more = h("p", { class: "mute" }, "Where checkpoints lie too close, the more important one is drawn and all have a tick on the axis: zoom in to tell them apart. Fainter lines are what a rewind or a crash left behind.");
  openDialog("Signs on the chart", [h("dl", { class: "facts" }, rows), more]);
}
