// The window of steps that is shown, and the ways to change it: wheel, pinch and keys. Dragging is the plot's own.

const LEAST = 2;

/** Holds [from, to] inside [low, high]; `changed(range, whole)` is called on each change. */
export class Window {
  constructor(changed) {
    this.changed = changed;
    this.bounds = [0, 1];
    this.range = null;
  }

  /** What is shown now. */
  get now() {
    return this.range ?? this.bounds;
  }

  get whole() {
    return this.range === null;
  }

  /** New ends of the run; a reader who looks at the whole of it keeps doing so. */
  setBounds(low, high) {
    this.bounds = [low, Math.max(high, low + LEAST)];
  }

  set(from, to) {
    const [low, high] = this.bounds;
    const span = Math.max(LEAST, Math.min(to - from, high - low));
    const start = Math.min(Math.max(low, from), high - span);
    const range = span >= (high - low) * 0.999 ? null : [start, start + span];
    if (range === this.range || (range && this.range && range[0] === this.range[0] && range[1] === this.range[1])) return;
    this.range = range;
    this.changed(this.now, this.whole);
  }

  reset() {
    this.set(...this.bounds);
  }

  /** `factor` below 1 zooms in, around a place from 0 (left) to 1 (right). */
  zoom(factor, around = 0.5) {
    const [from, to] = this.now;
    const middle = from + (to - from) * around;
    this.set(middle - (middle - from) * factor, middle + (to - middle) * factor);
  }

  /** Move along by a part of what is shown. */
  pan(part) {
    const [from, to] = this.now;
    this.set(from + (to - from) * part, to + (to - from) * part);
  }
}

/**
 * Wheel and pinch on one plot. A wheel without Ctrl scrolls the page, unless the chart has the focus: a page that can't
 * be scrolled past a chart is worse than a chart that needs a key.
 */
export function bindPointer(over, window_, hasFocus) {
  over.addEventListener(
    "wheel",
    (event) => {
      const sideways = Math.abs(event.deltaX) > Math.abs(event.deltaY);
      if (!(event.ctrlKey || event.metaKey || (hasFocus() && !event.shiftKey) || sideways)) return;
      if (sideways && window_.whole) return;
      event.preventDefault();
      if (sideways) window_.pan(event.deltaX / over.clientWidth);
      else window_.zoom(Math.exp(Math.max(-0.6, Math.min(0.6, event.deltaY * 0.0022))), event.offsetX / over.clientWidth);
    },
    { passive: false },
  );
  over.addEventListener("dblclick", () => window_.reset());
  bindPinch(over, window_);
}

function bindPinch(over, window_) {
  const touches = new Map();
  const spread = () => {
    const [a, b] = [...touches.values()];
    return { apart: Math.max(20, Math.abs(a - b)), middle: (a + b) / 2 };
  };
  let last = null;
  over.addEventListener("pointerdown", (event) => {
    if (event.pointerType !== "touch") return;
    touches.set(event.pointerId, event.clientX);
    last = touches.size === 2 ? spread() : null;
  });
  over.addEventListener("pointermove", (event) => {
    if (!touches.has(event.pointerId)) return;
    touches.set(event.pointerId, event.clientX);
    if (touches.size !== 2 || !last) return;
    const now = spread();
    const box = over.getBoundingClientRect();
    window_.zoom(last.apart / now.apart, (now.middle - box.left) / box.width);
    window_.pan((last.middle - now.middle) / box.width);
    last = now;
  });
  for (const name of ["pointerup", "pointercancel", "pointerleave"]) {
    over.addEventListener(name, (event) => {
      touches.delete(event.pointerId);
      last = null;
    });
  }
}
