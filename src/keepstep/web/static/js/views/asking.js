// What is asked of a training that runs, where the page may write: to save now, to stop.

import { post, runPath } from "../api.js";
import { openDialog } from "../components/dialog.js";
import { notice } from "../components/parts.js";
import { announce, h, set } from "../dom.js";
import { name as clean } from "../format.js";

const SAID = {
  save: { asked: "Asked to save: it is seen at the end of the step under way.", seen: "Seen: the step is being saved.", bad: "It was not saved" },
  stop: { asked: "Asked to stop: it is seen at the end of the step under way.", seen: "Seen: the step is being saved, and is the last.", bad: "It was not stopped" },
};

export class Asking {
  constructor(key, about) {
    Object.assign(this, { key, about });
    this.waiting = new Set();
    this.save = this.#button("save", "Save now", () => this.#ask("save"));
    this.stop = this.#button("stop", "Stop…", () => this.#confirm());
    this.element = h("div", { class: "group", role: "group", "aria-label": "Ask the training", hidden: true }, this.save, this.stop);
    this.said = h("div", { class: "asked", hidden: true });
  }

  /** Buttons stand there while somebody trains who can be asked. */
  set(run) {
    this.element.hidden = !this.about?.writable || run.state !== "training" || run.managed === false;
    if (run.state !== "training") this.waiting.clear();
    this.#draw();
  }

  /** It was seen, or answered, or nobody is there any more to answer. */
  told({ what, state, done, answer }) {
    if (state === "seen") {
      this.#say("info", SAID[what].seen);
      return;
    }
    this.waiting.delete(what);
    this.#draw();
    if (done) this.#say("info", `${sentence(answer)}.`);
    else this.#say("warn", h("strong", null, `${SAID[what].bad}: `), `${clean(answer)}.`);
  }

  #button(id, label, run) {
    return h("button", { type: "button", class: "button", data: { ask: id }, on: { click: run } }, label);
  }

  #confirm() {
    const text = [
      h("p", null, "The step under way is finished and saved; then the training ends as at a SIGTERM, with exit code 75. Nothing is lost."),
      h("p", { class: "mute" }, "The same command goes on from there. A supervisor, or a job that requeues itself, may start it again by itself."),
    ];
    openDialog("Stop this training?", text, [{ label: "Cancel" }, { label: "Stop", id: "confirm", primary: true, run: () => this.#ask("stop") }]);
  }

  async #ask(what) {
    this.waiting.add(what);
    this.#draw();
    try {
      await post(runPath(this.key, "ask"), { what }, this.about?.csrf ?? "");
      if (this.waiting.has(what)) this.#say("info", SAID[what].asked);
    } catch (error) {
      this.waiting.delete(what);
      this.#draw();
      this.#say("bad", h("strong", null, clean(error.message)), error.hint ? ` ${clean(error.hint)}` : "");
    }
  }

  #draw() {
    this.save.disabled = this.waiting.size > 0;
    this.stop.disabled = this.waiting.has("stop");
  }

  #say(tone, ...content) {
    const said = notice(tone, ...content);
    set(this.said, said);
    this.said.hidden = false;
    announce(said.textContent);
  }
}

const sentence = (text) => clean(text).replace(/^./, (first) => first.toUpperCase());
