// A run's curves with its checkpoints on them: panels, attempts, window, keyboard, and what is said about a mark.

import { announce, debounce, h, set, throttle } from "../dom.js";
import { count } from "../format.js";
import { recall, remember } from "../prefs.js";
import { colour, onTheme } from "../theme.js";
import { hideTip, showTip } from "../components/tooltip.js";
import { empty } from "../components/parts.js";
import { Curves } from "./curves.js";
import { legend } from "./glyphs.js";
import { Lanes } from "./lanes.js";
import { MarkLayer, marksOf } from "./marks.js";
import { oddsOf, sayOdd, sayOdds } from "./odd.js";
import { Panel } from "./panel.js";
import { Picker } from "./picker.js";
import { courseOf, defaultPanels, groupNames, stem, valueOn } from "./series.js";
import { bindPointer, Window } from "./zoom.js";

const narrow = matchMedia("(max-width: 720px)");
let serial = 0;

/** `on`: {open(mark), hover(mark|null), tip(mark) -> Node, say(mark) -> string, failed(error)}. */
export class RunChart {
  constructor(key, on) {
    Object.assign(this, { key, on, panels: [], summary: null, first: true });
    serial += 1;
    this.sync = `run-${serial}`;
    this.options = { log: recall("chart.log", false), smooth: recall("chart.smooth", false) };
    this.marks = new MarkLayer();
    this.lanes = new Lanes();
    this.curves = new Curves(key, () => this.draw());
    this.window = new Window((range, whole) => this.#moved(range, whole));
    this.picker = new Picker(this.options, {
      panels: (ids) => this.#choose(ids),
      log: (yes) => this.#option("log", yes),
      smooth: (yes) => this.#option("smooth", yes),
      zoom: (factor) => this.window.zoom(factor),
      whole: () => this.window.reset(),
    });
    this.ask = debounce(() => this.#detail(), 120);
    this.redraw = throttle(() => this.draw(), 250);
    this.pulse = h("i", { class: "pulse", hidden: true });
    this.stack = h("div", { class: "panels" });
    this.info = h("p", { class: "chart-info mute", "aria-live": "off" });
    this.odd = h("p", { class: "chart-odd", hidden: true });
    this.signs = h("div", { class: "chart-signs" });
    this.element = h("div", { class: "chart-focus", tabIndex: 0, role: "application", "aria-roledescription": "chart", "aria-label": "Curves with checkpoints", "aria-describedby": `${this.sync}-text` }, this.stack);
    this.text = h("p", { class: "chart-text", id: `${this.sync}-text` });
    this.element.addEventListener("keydown", (event) => this.#keys(event));
    this.element.addEventListener("blur", () => this.light(null));
    this.element.addEventListener("mouseleave", () => this.light(null));
    this.sizes = new ResizeObserver(() => this.#resize());
    this.sizes.observe(this.stack);
    this.unTheme = onTheme(() => this.panels.forEach((panel) => panel.restyle()));
  }

  destroy() {
    this.sizes.disconnect();
    this.unTheme();
    this.ask.cancel();
    this.redraw.cancel();
    this.picker.destroy();
    this.curves.unzoom();
    for (const panel of this.panels) panel.destroy();
    hideTip();
  }

  /** The run as it is now: marks, attempts, and the sentence about it. */
  setSummary(summary, text) {
    this.summary = summary;
    this.marks.marks = marksOf(summary);
    this.lanes.set(summary.attempts, summary.state === "training");
    set(this.text, text);
    set(this.signs, legend(new Set(this.marks.marks.map((mark) => mark.kind))));
    if (!this.first) this.draw();
  }

  /** Ask for the curves of what is shown. */
  async load() {
    try {
      const wanted = this.first ? this.#remembered() : this.#names();
      await this.curves.load(wanted, this.#points());
      if (this.first) {
        this.first = false;
        this.draw();
      }
      // A metric that was logged for the first time has joined a panel that is open.
      if (this.#names()?.some((name) => !(name in this.curves.all))) await this.curves.load(this.#names(), this.#points());
      if (!this.window.whole) await this.#detail();
    } catch (error) {
      if (error.name !== "AbortError") this.on.failed(error);
    }
  }

  /** A point that was logged just now. */
  push(step, values, odd) {
    if (this.first) return;
    if (this.curves.push(step, values, odd)) this.load();
    else this.redraw();
  }

  draw() {
    if (!this.summary || this.first) return;
    const ranking = this.summary.metric?.name;
    this.groups = groupNames(this.curves.names, ranking);
    const chosen = (recall("chart.panels") ?? []).filter((id) => this.groups.some((group) => group.id === id));
    const open = chosen.length ? chosen : defaultPanels(this.groups, ranking);
    this.picker.set(this.groups, open);
    const steps = this.marks.marks.map((mark) => mark.step);
    const [low, high] = this.curves.ends;
    this.window.setBounds(Math.min(low, steps[0] ?? low), Math.max(high, steps.at(-1) ?? high));
    this.#arrange(this.groups.filter((group) => open.includes(group.id)));
    const shown = this.curves.at(this.window.now);
    for (const panel of this.panels) panel.show(shown, this.window.now, this.options);
    this.lanes.draw(this.window.now);
    this.#inform();
    this.element.dataset.drawn = "yes";
    if (!this.timed && this.panels.length) performance.mark("keepstep.curves");
    this.timed = true;
  }

  /** Light up one mark (null: none), in every panel. */
  light(id, tip = null) {
    if (this.marks.lit !== id) {
      this.marks.lit = id;
      for (const panel of this.panels) panel.plot?.redraw(false, false);
      this.on.hover(this.marks.marks.find((mark) => mark.id === id) ?? null);
    }
    if (tip) showTip(tip.content, tip.x, tip.y);
    else hideTip();
  }

  #names() {
    return this.panels.length ? this.panels.flatMap((panel) => panel.group.names) : null;
  }

  #remembered() {
    const ranking = this.summary?.metric?.name;
    const stems = recall("chart.panels") ?? [ranking ? stem(ranking) : "loss", "loss"];
    return stems.every((id) => id === "loss") ? ["loss", "train_loss", "eval_loss", ...(ranking ? [ranking] : [])] : null;
  }

  #points() {
    return Math.max(200, Math.min(1600, Math.round(this.stack.clientWidth || 1000)));
  }

  #choose(ids) {
    remember("chart.panels", ids);
    this.draw();
    this.load();
  }

  #option(name, yes) {
    this.options = { ...this.options, [name]: yes };
    remember(`chart.${name}`, yes);
    this.draw();
  }

  #arrange(groups) {
    const shape = groups.map((group) => `${group.id}:${group.names}`).join("|");
    if (shape === this.shape) return;
    this.shape = shape;
    for (const panel of this.panels) panel.destroy();
    const on = {
      zoom: (min, max) => this.window.set(min, max),
      cursor: (u, panel) => this.#pointed(u, panel),
      draw: (u, panel) => this.#paint(u, panel),
      ready: (u, panel) => this.#ready(u, panel),
    };
    const first = narrow.matches ? 240 : 320;
    this.panels = groups.map((group, at) => new Panel(group, { height: at === 0 ? first : 132, main: at === 0, sync: this.sync, on }));
    const nothing = empty("No curves yet", "Metrics appear here as soon as the training logs them.");
    set(this.stack, this.panels.length ? this.panels.map((panel) => panel.element) : nothing);
  }

  #ready(u, panel) {
    bindPointer(u.over, this.window, () => document.activeElement === this.element);
    u.over.addEventListener("click", () => {
      const found = panel.main && this.marks.at(u, u.cursor.left, u.cursor.top);
      if (found) this.on.open(found.mark);
      else this.element.focus({ preventScroll: true });
    });
    if (panel.main) u.over.append(this.pulse);
  }

  #paint(u, panel) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left - 8 * ratio, bbox.top - 8 * ratio, bbox.width + 16 * ratio, bbox.height + 16 * ratio);
    ctx.clip();
    this.#rulers(u, ratio);
    if (panel.main) {
      const course = this.#course(panel);
      this.marks.draw(u, (plot, mark) => this.#height(plot, panel, mark, course));
      this.#beat(u);
    }
    ctx.restore();
  }

  /** Thin lines where an attempt began after another, and where the lit mark stands. */
  #rulers(u, ratio) {
    const { ctx, bbox } = u;
    const line = (step, token, dash) => {
      if (step < u.scales.x.min || step > u.scales.x.max) return;
      const x = Math.round(u.valToPos(step, "x", true)) + 0.5;
      ctx.strokeStyle = colour(token);
      ctx.lineWidth = ratio;
      ctx.setLineDash(dash.map((part) => part * ratio));
      ctx.beginPath();
      ctx.moveTo(x, bbox.top);
      ctx.lineTo(x, bbox.top + bbox.height);
      ctx.stroke();
    };
    for (const one of this.lanes.story.slice(1)) line(one.from, "--line-strong", [2, 3]);
    const lit = this.marks.marks.find((mark) => mark.id === this.marks.lit);
    if (lit) line(lit.step, "--text-mute", [1, 2]);
    ctx.setLineDash([]);
  }

  #course(panel) {
    const shown = this.curves.at(this.window.now);
    const ranking = this.summary.metric?.name;
    const names = panel.group.names;
    const name = names.includes(ranking) ? ranking : names.find((one) => (shown[one] ?? []).length);
    const course = courseOf(shown, name);
    return { name, course: course[0].length || shown === this.curves.all ? course : courseOf(this.curves.all, name) };
  }

  #height(u, panel, mark, { name, course }) {
    if (typeof mark.metrics?.[name] === "string") return u.bbox.top + u.bbox.height;
    const own = name === this.summary.metric?.name && mark.value !== null && mark.value !== undefined ? mark.value : null;
    const value = own ?? valueOn(course, mark.step);
    if (value === null || !Number.isFinite(value) || (this.options.log && value <= 0)) return u.bbox.top + u.bbox.height;
    return u.valToPos(value, "y", true);
  }

  #beat(u) {
    const writing = this.marks.position(u, "writing");
    this.pulse.hidden = !writing;
    if (writing) this.pulse.style.transform = `translate(${writing.left}px, ${writing.top}px)`;
  }

  #pointed(u, panel) {
    if (u.cursor.event === null || u.cursor.event === undefined) return;
    const { left, top } = u.cursor;
    // Panels move their cursors together; what is said is of the one under the pointer.
    if (left >= 0 && !u.over.matches(":hover")) return;
    const found = panel.main && left >= 0 ? this.marks.at(u, left, top) : null;
    u.over.style.cursor = found ? "pointer" : "";
    const { clientX, clientY } = u.cursor.event;
    const odd = panel.odd ? h("div", { class: "odd" }, sayOdd(panel.odd)) : null;
    const content = [found ? this.on.tip(found.mark) : null, odd];
    this.light(found?.mark.id ?? null, found || odd ? { content, x: clientX, y: clientY } : null);
  }

  #keys(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const moves = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity };
    if (event.shiftKey && (event.key === "ArrowLeft" || event.key === "ArrowRight")) this.window.pan(0.25 * moves[event.key]);
    else if (event.key in moves) this.#step(moves[event.key]);
    else if (event.key === "+" || event.key === "=") this.window.zoom(0.5, this.#around());
    else if (event.key === "-") this.window.zoom(2, this.#around());
    else if (event.key === "0") this.window.reset();
    else if (event.key === "Enter" && this.marks.lit) this.on.open(this.marks.marks.find((mark) => mark.id === this.marks.lit));
    else if (event.key === "Escape" && this.marks.lit) this.light(null);
    else return;
    event.preventDefault();
  }

  /** Zooming by key keeps the lit mark where it is. */
  #around() {
    const lit = this.marks.marks.find((mark) => mark.id === this.marks.lit);
    const [from, to] = this.window.now;
    return lit && lit.step >= from && lit.step <= to ? (lit.step - from) / (to - from) : 0.5;
  }

  #step(by) {
    const marks = this.marks.marks;
    if (!marks.length) return;
    const at = marks.findIndex((mark) => mark.id === this.marks.lit);
    const begin = by > 0 ? -1 : marks.length;
    const next = marks[Math.min(marks.length - 1, Math.max(0, (at < 0 ? begin : at) + by))];
    const [from, to] = this.window.now;
    if (next.step < from || next.step > to) this.window.set(next.step - (to - from) / 2, next.step + (to - from) / 2);
    this.light(next.id);
    const u = this.panels[0]?.plot;
    // The plot draws in a frame of its own; the note stands where the mark is drawn.
    requestAnimationFrame(() => {
      const place = u && this.marks.position(u, next.id);
      if (!place || this.marks.lit !== next.id) return;
      const box = u.over.getBoundingClientRect();
      showTip(this.on.tip(next), box.left + place.left, box.top + place.top);
    });
    announce(this.on.say(next));
  }

  #moved(range, whole) {
    hideTip();
    this.picker.setWhole(whole);
    if (whole) {
      this.curves.unzoom();
      this.draw();
      return;
    }
    const shown = this.curves.at(range);
    for (const panel of this.panels) panel.show(shown, range, this.options);
    this.lanes.draw(range);
    this.#inform();
    this.ask();
  }

  async #detail() {
    if (this.window.whole) return;
    try {
      await this.curves.zoom(this.window.now, this.#points());
    } catch (error) {
      this.on.failed(error);
    }
  }

  #inform() {
    this.picker.setWhole(this.window.whole);
    const [from, to] = this.window.now;
    const { shown, total } = this.curves.shares(this.window.now, this.#names() ?? []);
    const where = this.window.whole ? "The whole run" : `Steps ${count(Math.max(0, Math.ceil(from)))} to ${count(Math.floor(to))}`;
    const how = shown < total ? `${count(shown)} of ${count(total)} points drawn, highs and lows kept; zoom in for all` : `all ${count(total)} points`;
    set(this.info, total ? `${where}: ${how}.` : "");
    const odd = sayOdds(oddsOf(this.curves.at(this.window.now), this.#names() ?? []));
    this.odd.hidden = !odd;
    if (this.odd.textContent !== odd) set(this.odd, odd);
    this.element.dataset.shown = String(shown);
    this.element.dataset.total = String(total);
    this.element.dataset.range = `${from},${to}`;
  }

  #resize() {
    for (const panel of this.panels) panel.resize(panel.place.clientWidth);
  }
}
