// What comes first: which checkpoint to ship, and whether the run can be resumed, in a sentence each.

import { h, set } from "../dom.js";
import { count, metric, name as clean } from "../format.js";
import { icon } from "../icons.js";
import { address } from "../router.js";
import { neverFinite } from "./runrow.js";

const MOST_TIES = 3;

export class Verdict {
  constructor() {
    this.element = h("ul", { class: "verdicts", "aria-label": "What to ship, and where to resume" });
  }

  set(run) {
    const shape = JSON.stringify([run.best, run.certainty?.ties, run.resume, run.state, run.checkpoints.length]);
    if (shape === this.shape) return;
    this.shape = shape;
    set(this.element, line("ship", Boolean(run.best), ship(run)), line("resume", Boolean(run.resume.from), resume(run)));
  }
}

const line = (id, good, content) => h("li", { class: good ? "good" : "none", data: { verdict: id } }, icon(good ? "check" : "info"), h("span", null, content.flat(9)));

function link(run, { step, generation }, text = `step ${count(step)}`) {
  return h("a", { href: address(run.key, "checkpoint", generation) }, text);
}

function ship(run) {
  const { best, certainty } = run;
  if (!best) {
    const why = !run.checkpoints.length ? "nothing was saved yet" : neverFinite(run) ? `${clean(run.metric.name)} is not a number in any that is kept` : run.metric ? `no checkpoint has a value of ${clean(run.metric.name)}` : "no metric ranks the checkpoints";
    return [h("strong", null, "Nothing to ship by a metric: "), `${why}.`];
  }
  const ties = certainty?.ties ?? [];
  const of = (step) => run.checkpoints.find((row) => row.step === step);
  const shown = ties.slice(0, MOST_TIES).map((step, at) => [at ? ", " : "", of(step) ? link(run, of(step), count(step)) : count(step)]);
  const more = ties.length > MOST_TIES ? ` and ${count(ties.length - MOST_TIES)} more` : "";
  const name = run.checkpoints.find((row) => row.generation === best.generation)?.name ?? `step ${count(best.step)}`;
  return [h("strong", null, "Ship ", link(run, best, clean(name))), `: best ${clean(run.metric.name)} ${metric(best.value)}`, ties.length ? ["; a tie with ", shown, more] : "", "."];
}

function resume(run) {
  const { from, why, proof, passed_over: passed } = run.resume;
  if (!from) return [h("strong", null, "Nothing to resume from: "), `${clean(why)}.`];
  const skipped = passed.length ? [" Passed over: ", passed.slice(0, MOST_TIES).map((one, at) => [at ? ", " : "", link(run, one), ` (${clean(one.why)})`]), passed.length > MOST_TIES ? ` and ${count(passed.length - MOST_TIES)} more` : "", "."] : "";
  const head = run.state === "training" ? "A crash now would resume from " : run.state === "finished" ? "Finished; could go on from " : "Can be resumed from ";
  return [h("strong", null, head, link(run, from)), `: ${clean(proof)}.`, skipped];
}
