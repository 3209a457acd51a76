// A table of any length: only the rows in sight are in the document. Sorted by its headers, walked with the arrow keys.

import { h, set } from "../dom.js";

const SPARE = 8;
const narrow = matchMedia("(max-width: 720px)");

/**
 * `columns`: [{id, label, width, number, wide, sort, cell}] (wide: left out on a phone, "more" on a tablet too); `sort(row)` gives what to order by, `cell(row)` what to show.
 * `link(row)` is the address that a row opens; `mark(row)` gives classes; `stacked` lays rows out in two lines on phones.
 */
export class Table {
  constructor({ label, columns, key, link = null, mark = () => "", sort = null, stacked = false, empty = "Nothing here yet.", onHover = null }) {
    Object.assign(this, { columns, key, link, mark, sort, stacked, empty, onHover });
    this.rows = [];
    this.shown = [];
    this.current = null;
    this.body = h("tbody", { role: "rowgroup" });
    this.head = h("tr", { role: "row" });
    this.table = h(
      "table",
      { class: stacked ? "grid stack" : "grid", role: "table", "aria-label": label },
      h("thead", { role: "rowgroup" }, this.head),
      this.body,
    );
    this.nothing = h("p", { class: "empty mute", hidden: true });
    this.element = h("div", { class: "table-scroll", tabIndex: link ? -1 : 0, role: "group", "aria-label": label }, this.table, this.nothing);
    this.element.addEventListener("scroll", () => this.#draw(), { passive: true });
    this.element.addEventListener("keydown", (event) => this.#keys(event));
    this.observer = new ResizeObserver(() => this.#draw());
    this.observer.observe(this.element);
    this.#drawHead();
  }

  destroy() {
    this.observer.disconnect();
  }

  /** Show these rows; the place, the focus and the order stay. */
  setRows(rows) {
    this.rows = rows;
    this.#order();
    this.#draw(true);
  }

  /** Highlight one row (null: none); `reveal` scrolls to it. */
  setCurrent(key, reveal = false) {
    if (this.current === key && !reveal) return;
    this.current = key;
    const at = this.shown.findIndex((row) => this.key(row) === key);
    if (reveal && at >= 0) this.#reveal(at);
    this.#draw(true);
  }

  get height() {
    return this.stacked && narrow.matches ? 66 : 40;
  }

  #order() {
    const column = this.columns.find((one) => one.id === this.sort?.id);
    this.shown = [...this.rows];
    if (column?.sort) {
      const sign = this.sort.down ? -1 : 1;
      const values = new Map(this.shown.map((row) => [row, column.sort(row)]));
      this.shown.sort((a, b) => compare(values.get(a), values.get(b), sign));
    }
    this.table.setAttribute("aria-rowcount", String(this.shown.length + 1));
    this.nothing.hidden = this.shown.length > 0;
    set(this.nothing, this.empty);
  }

  #drawHead() {
    set(
      this.head,
      this.columns.map((column) => {
        const by = this.sort?.id === column.id;
        const arrow = by ? h("span", { class: "arrow", "aria-hidden": "true" }, this.sort.down ? "▼" : "▲") : null;
        const label = column.sort
          ? h("button", { type: "button", on: { click: () => this.#sortBy(column) } }, column.label, arrow)
          : column.label;
        return h(
          "th",
          {
            role: "columnheader",
            scope: "col",
            class: classes(column),
            "aria-sort": by ? (this.sort.down ? "descending" : "ascending") : null,
            style: column.width ? { width: column.width } : {},
          },
          label,
        );
      }),
    );
  }

  #sortBy(column) {
    const same = this.sort?.id === column.id;
    this.sort = { id: column.id, down: same ? !this.sort.down : Boolean(column.down) };
    const focus = document.activeElement?.closest?.("th");
    const at = focus ? [...this.head.children].indexOf(focus) : -1;
    this.#drawHead();
    if (at >= 0) this.head.children[at].querySelector("button")?.focus();
    this.#order();
    this.#draw(true);
  }

  #draw(fresh = false) {
    const room = this.element.clientHeight || 640;
    const first = Math.max(0, Math.floor(this.element.scrollTop / this.height) - SPARE);
    const last = Math.min(this.shown.length, Math.ceil((this.element.scrollTop + room) / this.height) + SPARE);
    if (!fresh && first === this.first && last === this.last) return;
    [this.first, this.last] = [first, last];
    const focused = this.body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.key : null;
    const place = focused ? [...document.activeElement.closest("tr").querySelectorAll("a,button,input")].indexOf(document.activeElement) : -1;
    const rows = this.shown.slice(first, last).map((row, at) => this.#row(row, first + at));
    set(this.body, pad(first * this.height), rows, pad((this.shown.length - last) * this.height));
    if (focused) this.body.querySelector(`tr[data-key="${CSS.escape(focused)}"]`)?.querySelectorAll("a,button,input")[place]?.focus({ preventScroll: true });
  }

  #row(row, at) {
    const key = String(this.key(row));
    const open = this.link?.(row);
    const active = this.current === this.key(row);
    const entry = active || (at === 0 && !this.shown.some((one) => this.key(one) === this.current));
    const cells = this.columns.map((column, place) => {
      const content = column.cell(row);
      const inside = place === 0 && open ? h("a", { href: open, tabIndex: entry ? 0 : -1, data: { row: key } }, content) : content;
      return h("td", { role: "cell", class: classes(column), "data-column": column.id }, inside);
    });
    const marks = [this.mark(row), open ? "link" : "", active ? "at" : ""].filter(Boolean).join(" ");
    const element = h("tr", { role: "row", class: marks || null, "aria-rowindex": at + 2, data: { key } }, cells);
    if (open) {
      element.addEventListener("click", (event) => {
        if (!event.target.closest("a,button,input,label") && !String(getSelection())) location.hash = open;
      });
    }
    if (this.onHover) {
      element.addEventListener("mouseenter", () => this.onHover(row));
      element.addEventListener("mouseleave", () => this.onHover(null));
    }
    return element;
  }

  #keys(event) {
    const link = event.target.closest?.("a[data-row]");
    if (!link || event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.shown.findIndex((row) => String(this.key(row)) === link.dataset.row);
    const page = Math.max(1, Math.floor(this.element.clientHeight / this.height) - 2);
    const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -Infinity, End: Infinity };
    if (!(event.key in moves)) return;
    event.preventDefault();
    const next = Math.min(this.shown.length - 1, Math.max(0, at + moves[event.key]));
    this.focusAt(next);
  }

  /** Put the focus on the link of the row at this place. */
  focusAt(at) {
    const row = this.shown[at];
    if (!row) return;
    this.current = this.key(row);
    this.#reveal(at);
    this.#draw(true);
    this.body.querySelector(`a[data-row="${CSS.escape(String(this.current))}"]`)?.focus({ preventScroll: true });
  }

  #reveal(at) {
    const head = this.head.offsetHeight || 32;
    const top = at * this.height;
    const room = this.element.clientHeight - head;
    if (top < this.element.scrollTop) this.element.scrollTop = top;
    else if (top + this.height > this.element.scrollTop + room) this.element.scrollTop = top + this.height - room;
  }
}

function classes(column) {
  return [column.number ? "number" : "", column.wide === "more" ? "wide wider" : column.wide ? "wide" : "", column.class ?? ""].filter(Boolean).join(" ") || null;
}

function pad(height) {
  return height > 0 ? h("tr", { class: "pad", "aria-hidden": "true" }, h("td", { style: { height: `${height}px` } })) : null;
}

/** What is missing or no number comes last in either direction. */
function compare(a, b, sign) {
  const [noA, noB] = [missing(a), missing(b)];
  if (noA || noB) return noA - noB;
  return typeof a === "string" ? sign * a.localeCompare(b, "en", { numeric: true }) : sign * (a - b);
}

const missing = (value) => (value === null || value === undefined || Number.isNaN(value) ? 1 : 0);
