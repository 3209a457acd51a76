// The run's past under other rules: a line for each checkpoint from its save to its removal.

import { card } from "../components/parts.js";
import { h, set } from "../dom.js";
import { count, plural, size } from "../format.js";
import { colour, onTheme } from "../theme.js";

const LEFT = 64;
const TOP = 8;
const MOST_HIGH = 360;

export class Replay {
  constructor() {
    this.canvas = h("canvas", { class: "replay", role: "img" });
    this.slider = h("input", { type: "range", min: "0", "aria-label": "Look back at a save", on: { input: () => this.#look() } });
    this.text = h("p", { class: "replay-text" });
    this.end = h("p", { class: "replay-end" });
    this.note = h("p", { class: "card-note" });
    this.scroll = h("div", { class: "replay-scroll" }, this.canvas);
    this.element = card("The past of this run, under these rules", {}, this.note, h("div", { class: "card-body" }, this.scroll, h("div", { class: "replay-slider" }, this.slider), this.text, this.end));
    this.unTheme = onTheme(() => this.#draw());
    this.sizes = new ResizeObserver(() => this.#draw());
    this.sizes.observe(this.scroll);
  }

  destroy() {
    this.unTheme();
    this.sizes.disconnect();
  }

  show(replay) {
    this.frames = replay?.frames ?? [];
    this.element.hidden = this.frames.length < 2;
    if (this.element.hidden) return;
    this.spans = spansOf(this.frames);
    set(this.note, "Each line is a checkpoint: it begins when it was saved and ends when these rules would have removed it; thin where only its weights would be left. ", replay.note ?? "");
    const { kept, best, resume_from: resume } = replay.final;
    set(this.end, h("b", null, "In the end: "), `${plural(kept.length, "checkpoint")} on disk${list(kept)}. Resume from `, h("b", null, resume === null ? "nothing" : `step ${count(resume)}`), "; best ", h("b", null, best === null ? "not ranked" : `step ${count(best)}`), ".");
    this.canvas.setAttribute("aria-label", `Lifetimes of ${this.spans.length} checkpoints; the slider below reads them out`);
    this.slider.max = String(this.frames.length - 1);
    this.slider.value = this.slider.max;
    this.#look();
  }

  #look() {
    const frame = this.frames[Number(this.slider.value)];
    const gone = frame.removed.length ? ` Removed: ${frame.removed.map((one) => `step ${count(one.step)} (${one.reason})`).join("; ")}.` : "";
    set(this.text, h("b", null, `After the save of step ${count(frame.step)}: `), `${plural(left(frame).length, "checkpoint")} on disk, ${size(frame.bytes)}${list(left(frame))}.${gone}`);
    this.slider.setAttribute("aria-valuetext", `Step ${count(frame.step)}`);
    this.#draw();
  }

  #draw() {
    const width = this.scroll.clientWidth;
    if (!this.frames?.length || !width) return;
    const ratio = devicePixelRatio || 1;
    const row = Math.max(1, Math.min(14, Math.floor(MOST_HIGH / this.spans.length)));
    const height = TOP + row * this.spans.length + 24;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    this.canvas.style.height = `${height}px`;
    const context = this.canvas.getContext("2d");
    context.scale(ratio, ratio);
    const [first, last] = [this.frames[0].step, this.frames.at(-1).step];
    const at = (step) => LEFT + ((width - LEFT - 16) * (step - first)) / Math.max(1, last - first);
    this.#axis(context, at, first, last, height);
    const every = Math.max(1, Math.ceil(16 / row));
    for (const [place, span] of this.spans.entries()) {
      const y = TOP + row * place;
      const bar = Math.max(1, row * 0.62);
      const [from, to] = [at(span.from), Math.max(at(span.to), at(span.from) + 3)];
      context.fillStyle = colour(span.end ? "--mark-gone" : "--cat-1");
      context.globalAlpha = span.end ? 0.45 : 1;
      const thin = span.thin === null ? to : Math.min(to, at(span.thin));
      context.fillRect(from, y + (row - bar) / 2, thin - from, bar);
      context.fillRect(thin, y + row / 2 - Math.max(0.75, bar / 6), to - thin, Math.max(1.5, bar / 3));
      context.globalAlpha = 1;
      if (place % every === 0) label(context, count(span.from), LEFT - 8, y + row / 2, "right");
    }
    const x = at(this.frames[Number(this.slider.value)].step);
    context.fillStyle = colour("--cat-3");
    context.fillRect(x - 0.75, TOP - 4, 1.5, height - 24);
  }

  #axis(context, at, first, last, height) {
    for (let part = 0; part <= 4; part += 1) {
      const step = Math.round(first + ((last - first) * part) / 4);
      context.fillStyle = colour("--grid");
      context.fillRect(at(step), TOP, 1, height - TOP - 22);
      label(context, count(step), at(step), height - 10, part === 4 ? "right" : part ? "center" : "left");
    }
  }
}

function label(context, text, x, y, align) {
  context.fillStyle = colour("--text-mute");
  context.font = "11px system-ui, sans-serif";
  context.textAlign = align;
  context.textBaseline = "middle";
  context.fillText(text, x, y);
}

/** Each checkpoint's time on disk: {from, to, thin (since when, or null), end (true when removed)}. */
function spansOf(frames) {
  const open = new Map();
  const all = [];
  for (const frame of frames) {
    const kept = new Set(left(frame));
    for (const [step, span] of open) {
      if (kept.has(step)) continue;
      Object.assign(span, { to: frame.step, end: true });
      open.delete(step);
    }
    for (const step of left(frame)) {
      if (open.has(step)) continue;
      const span = { from: step, to: step, thin: null, end: false };
      open.set(step, span);
      all.push(span);
    }
    for (const step of frame.thinned) {
      const span = open.get(step);
      if (span && span.thin === null) span.thin = frame.step;
    }
  }
  for (const span of open.values()) span.to = frames.at(-1).step;
  return all;
}

/** Steps that are on disk after a save: whole ones, and those of which the weights are left. */
const left = (frame) => [...frame.kept, ...frame.thinned].sort((a, b) => a - b);

const list = (steps) => (steps.length ? ` (${steps.slice(-8).map(count).join(", ")}${steps.length > 8 ? " and older ones" : ""})` : "");
