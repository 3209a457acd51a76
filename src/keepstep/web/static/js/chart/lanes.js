// The attempts of a run below its curves: each process a bar from where it began to where it ended, and how.

import { h, set } from "../dom.js";
import { count, plural, time } from "../format.js";
import { icon } from "../icons.js";
import { GUTTER } from "./panel.js";

const MOST = 8;

/** What became of each attempt: [{number, from, to, liveTo, timeline, end, steps, text}], oldest first; `steps` is for beside `end`. */
export function storyOf(attempts, training) {
  return attempts.map((one, at) => {
    const next = attempts[at + 1];
    const from = one.from_step ?? 0;
    const to = Math.max(one.last_step ?? from, from);
    // A later attempt that began at or before this one's end made the rest of it void.
    const liveTo = attempts.slice(at + 1).reduce((least, later) => Math.min(least, later.from_step ?? 0), to);
    // Number 0 stands for what no history was written of: nothing says how that ended.
    const end = one.ended ?? (one.number === 0 ? "ended" : next || !training ? "killed" : "running");
    const fresh = one.from_step === null || one.from_step === undefined;
    const begun = rewound(one, attempts[at - 1]) ? "rewound" : "resumed";
    const range = to > from ? `steps ${count(from)} to ${count(to)}` : `step ${count(to)}`;
    const steps = fresh ? range : `${range}, ${begun}`;
    const text = fresh ? `${range}, ${end}` : `${begun} ${begun === "rewound" ? "to" : "from"} ${count(from)}, ${ENDS[end](to)}`;
    return { ...one, from, to, liveTo, end, steps, text, lost: Math.max(0, to - liveTo) };
  });
}

const rewound = (one, before) => before !== undefined && one.timeline !== before.timeline;
const ENDS = {
  finished: (to) => `finished at ${count(to)}`,
  stopped: (to) => `stopped at ${count(to)}`,
  ended: (to) => `ended at ${count(to)}`,
  failed: (to) => `failed at ${count(to)}`,
  killed: (to) => `killed at ${count(to)}`,
  running: (to) => `running, at ${count(to)}`,
};

/** Bars that follow the window of the chart. A run of one attempt has nothing to tell, and shows none. */
export class Lanes {
  constructor() {
    this.list = h("ol", { class: "lanes-list" });
    this.more = h("p", { class: "mute lanes-more" });
    this.element = h("section", { class: "lanes", "aria-label": "Attempts", hidden: true }, h("h3", null, "Attempts: each process that trained this run; hatched steps were done again by a later one"), this.list, this.more);
    this.story = [];
  }

  set(attempts, training) {
    this.story = storyOf(attempts, training);
    this.element.hidden = this.story.length < 2;
    const older = Math.max(0, this.story.length - MOST);
    this.more.hidden = older === 0;
    set(this.more, older ? `${plural(older, "older attempt")}: see Health` : "");
  }

  /** Draw for a window of steps. */
  draw([min, max]) {
    if (this.element.hidden) return;
    const span = max - min;
    const at = (step) => `${Math.max(0, Math.min(100, (100 * (step - min)) / span))}%`;
    const width = (from, to) => `${Math.max(0, (100 * (Math.min(to, max) - Math.max(from, min))) / span)}%`;
    const bars = this.story.slice(-MOST).map((one) => {
      const early = (one.from - min) / span < 0.5;
      return h(
        "li",
        { class: `lane ${one.end}`, title: `Attempt ${one.number}: ${one.text}. Started ${time(one.started)}.` },
        h("span", { class: "lane-number" }, `#${one.number}`),
        h(
          "div",
          { class: "lane-track" },
          h("i", { class: "lane-live", style: { left: at(one.from), width: width(one.from, one.liveTo) } }),
          h("i", { class: "lane-lost", style: { left: at(one.liveTo), width: width(one.liveTo, one.to) } }),
          one.to >= min && one.to <= max ? h("i", { class: "lane-end", style: { left: at(one.to) } }) : null,
          h("span", { class: "lane-text", style: early ? { left: `calc(${at(one.from)} + 6px)` } : { right: `calc(100% - ${at(one.from)} + 8px)` } }, END_ICON[one.end]?.(), one.text, one.lost ? ` · ${plural(one.lost, "step")} done again` : null),
        ),
      );
    });
    this.list.style.setProperty("--gutter", `${GUTTER}px`);
    set(this.list, bars);
  }
}

const END_ICON = { killed: () => icon("cross"), failed: () => icon("warning"), finished: () => icon("check") };
