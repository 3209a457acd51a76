// Health: what doctor finds, what happened, which attempts there were and how they ended, what saves cost.

import { get, runPath } from "../api.js";
import { storyOf } from "../chart/lanes.js";
import { badge, card, empty } from "../components/parts.js";
import { Table } from "../components/table.js";
import { h, set } from "../dom.js";
import { age, name as clean, plural, time } from "../format.js";
import { icon } from "../icons.js";
import { address } from "../router.js";
import { sentenceOf, toneOf } from "./eventtext.js";
import { StallChart } from "./stalls.js";

const TONES = { error: "bad", warning: "warn", hint: "info" };
const RANK = { error: 0, warning: 1, hint: 2 };
const ENDS = { killed: "bad", failed: "bad", finished: "good", stopped: "warn", running: "info" };

export class HealthView {
  constructor({ key, title }) {
    Object.assign(this, { key, title });
    this.search = h("input", { type: "search", placeholder: "Search events", "aria-label": "Search events", on: { input: () => this.#events() } });
    this.stalls = new StallChart();
    this.events = new Table({
      label: "Events",
      key: (event) => event.id,
      stacked: true,
      empty: "No event matches.",
      columns: [
        { id: "time", label: "When", width: "108px", cell: (event) => h("span", { title: time(event.time) }, `${age(event.time)} ago`) },
        { id: "event", label: "Event", width: "120px", cell: (event) => badge(clean(event.event), toneOf(event)) },
        { id: "text", label: "What happened", cell: (event) => h("span", { title: sentenceOf(event) }, sentenceOf(event)) },
      ],
    });
    this.events.element.classList.add("events");
    this.head = h("div", { class: "title-row" });
    this.body = h("div", { class: "view-rest" });
    this.element = h("div", { class: "view" }, this.head, this.body);
  }

  async load() {
    const [health, run] = await Promise.all([get(runPath(this.key, "health")), get(runPath(this.key))]);
    Object.assign(this, { health, run });
    this.title(`Health · ${clean(run.name).slice(0, 40)}`);
    set(this.head, h("div", { class: "title-main" }, h("p", null, h("a", { href: address(this.key) }, h("bdi", null, clean(run.name)))), h("h1", null, "Health")));
    const log = card("Events", { tools: [h("label", { class: "search" }, icon("search"), this.search)], note: run.managed === false ? "None: keepstep logs events of runs that it manages." : "The newest first; all of them: keepstep events RUN" }, this.events.element);
    set(this.body, this.#findings(), h("div", { class: "two" }, this.#attempts(), this.#stalls()), log);
    this.stalls.show(health.stalls);
    this.events.empty = run.managed === false ? "No events." : "No event matches.";
    this.#events();
  }

  async refresh(changed) {
    if (changed.size && !changed.has("events") && !changed.has("checkpoints")) return;
    if (document.activeElement !== this.search) {
      await this.load();
      return;
    }
    // Nobody should lose a word that they are typing: the list alone is brought up to date.
    this.health = await get(runPath(this.key, "health"));
    this.#events();
  }

  destroy() {
    this.events.destroy();
    this.stalls.destroy();
  }

  #findings() {
    const { findings } = this.health;
    if (this.run.managed === false && findings && !findings.length) return card("Findings", {}, h("p", { class: "card-body" }, "Nothing found, by the structure of its checkpoints: without digests damage inside of files can't be seen."));
    if (findings === null) return card("Findings", {}, empty("Not examined", "The doctor has nothing to examine in this run yet."));
    if (!findings.length) return card("Findings", {}, h("p", { class: "card-body all-well" }, icon("check"), " Nothing found: the run's settings and its directory look sound."));
    const rows = [...findings].sort((a, b) => RANK[a.severity] - RANK[b.severity]).map((one) =>
      h(
        "li",
        { class: `finding ${TONES[one.severity]}` },
        h("div", { class: "finding-head" }, badge(one.severity, TONES[one.severity]), h("h3", null, clean(one.title)), h("span", { class: "mono mute" }, clean(one.id))),
        h("p", null, clean(one.what)),
        one.why ? h("p", { class: "mute" }, clean(one.why)) : null,
        one.fix ? h("p", null, h("b", null, "What to do: "), clean(one.fix)) : null,
      ),
    );
    return card(`${plural(findings.length, "finding")}`, { note: "What keepstep doctor says about this run." }, h("ul", { class: "findings" }, rows));
  }

  #attempts() {
    const story = storyOf(this.health.attempts, this.run.state === "training").reverse();
    const rows = story.slice(0, 30).map((one) =>
      h(
        "li",
        { class: "attempt" },
        h("span", { class: "mono mute" }, `#${one.number}`),
        h("div", null, h("p", null, badge(one.end, ENDS[one.end]), ` ${one.steps}`), h("p", { class: "mute" }, `${time(one.started)}${one.lost ? ` · ${plural(one.lost, "step")} were done again` : ""}`)),
      ),
    );
    const note = "Each process that trained this run: killed means that it ended without a word (SIGKILL, preemption, power).";
    return card("Attempts", { note }, rows.length ? h("ol", { class: "attempts", tabIndex: 0, "aria-label": "Attempts, the newest first" }, rows) : empty("No attempt yet", "A training's start appears here."));
  }

  #stalls() {
    const stalls = this.health.stalls;
    const note = "How long the training stood still for each save (blocked), and until it was safe on disk (durable).";
    return card("What saves cost", { note }, stalls.length ? h("div", { class: "card-body" }, this.stalls.element) : empty("Not measured yet", "The first save of an attached trainer appears here."));
  }

  #events() {
    const wanted = this.search.value.trim().toLowerCase();
    const rows = this.health.events.map((event, id) => ({ ...event, id }));
    this.events.setRows(wanted ? rows.filter((event) => `${event.event} ${sentenceOf(event)}`.toLowerCase().includes(wanted)) : rows);
  }
}

