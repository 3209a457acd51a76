// The server's strands as what the chart draws: one series for the live course, few for what was abandoned.

import { tokenOf } from "../theme.js";

const SMOOTH = 0.9;
const NOT_SHOWN = /(^epoch$|_runtime$|_per_second$|^total_flos$|^num_input_tokens|^step_time)/;

/** A metric without what says on which data it was measured: `eval_loss` and `train_loss` share a panel. */
export const stem = (name) => name.replace(/^(eval|train|test|val|valid|validation)[_/]/, "") || name;

/** Names by panel: that of the ranking metric first, then the loss, then the others. */
export function groupNames(names, ranking) {
  const groups = new Map();
  for (const name of names) groups.set(stem(name), [...(groups.get(stem(name)) ?? []), name]);
  const first = ranking ? stem(ranking) : "loss";
  const order = (id) => (id === first ? 0 : id === "loss" ? 1 : NOT_SHOWN.test(groups.get(id)[0]) ? 3 : 2);
  return [...groups].map(([id, members]) => ({ id, names: members.sort() })).sort((a, b) => order(a.id) - order(b.id) || a.id.localeCompare(b.id));
}

/** The panels that are open when the reader chose none. */
export function defaultPanels(groups, ranking) {
  const wanted = new Set([ranking ? stem(ranking) : "loss", "loss"]);
  const found = groups.filter((group) => wanted.has(group.id)).map((group) => group.id);
  return found.length ? found : groups.slice(0, 1).map((group) => group.id);
}

/** Colour and width of each name of a panel: what is evaluated stands out from what is trained on. */
export function stylesOf(names) {
  const evaluated = names.filter((name) => /^(eval|test|val|valid|validation)[_/]/.test(name));
  let at = 0;
  return new Map(
    names.map((name) => {
      const strong = names.length === 1 || evaluated.includes(name) || !evaluated.length;
      return [name, strong ? { token: tokenOf(at++), width: 1.75 } : { token: "--cat-2", width: 1.1 }];
    }),
  );
}

/** Everything that one panel draws: {data, series: [{name, token, width, alpha, dash}]}; `data[0]` are steps. */
export function panelSeries(curves, names, { smooth = false, log = false } = {}) {
  const styles = stylesOf(names);
  const tables = [];
  const series = [];
  const add = (points, style) => {
    if (!points[0].length) return;
    tables.push(points);
    series.push(style);
  };
  for (const name of names) {
    const strands = (curves[name] ?? []).map((strand) => ({ ...strand, values: log ? strand.values.map(positive) : strand.values }));
    const style = { name, ...styles.get(name) };
    const live = chain(strands.filter((strand) => strand.live));
    for (const lost of pack(strands.filter((strand) => !strand.live).map((strand) => joined(strand, strands)))) add(lost, { ...style, alpha: 0.35, abandoned: true });
    if (smooth) add(live, { ...style, alpha: 0.25, faint: true });
    add(smooth ? [live[0], average(live[1])] : live, { ...style, alpha: 1, live: true });
  }
  const data = tables.length ? uPlot.join(tables) : [[]];
  return { data, series };
}

const positive = (value) => (value !== null && value > 0 ? value : null);

/** Strands one behind the other as one list of points; where two have the same step the later attempt counts. */
function chain(strands) {
  const ordered = [...strands].sort((a, b) => a.attempt - b.attempt);
  const [steps, values] = [[], []];
  for (const strand of ordered) {
    while (steps.length && strand.steps.length && steps.at(-1) >= strand.steps[0]) {
      steps.pop();
      values.pop();
    }
    for (let at = 0; at < strand.steps.length; at += 1) {
      if (steps.length && strand.steps[at] === steps.at(-1)) continue;
      steps.push(strand.steps[at]);
      values.push(strand.values[at]);
    }
  }
  return [steps, values];
}

/** An abandoned strand begins behind the cut: the last point before it ties it to the course that it left. */
function joined(strand, strands) {
  const own = strands.find((other) => other.live && other.attempt === strand.attempt && other.steps.length);
  if (!own || !strand.steps.length || own.steps.at(-1) >= strand.steps[0]) return strand;
  return { ...strand, steps: [own.steps.at(-1), ...strand.steps], values: [own.values.at(-1), ...strand.values] };
}

/** Abandoned strands that don't overlap share a series, with a gap between them. */
function pack(strands) {
  const rows = [];
  for (const strand of [...strands].sort((a, b) => a.steps[0] - b.steps[0])) {
    if (!strand.steps.length) continue;
    const row = rows.find(([steps]) => steps.at(-1) + 1 < strand.steps[0]);
    if (!row) {
      const [steps, values] = chain([strand]);
      rows.push([steps, values]);
    } else {
      row[0].push((row[0].at(-1) + strand.steps[0]) / 2, ...strand.steps);
      row[1].push(null, ...strand.values);
    }
  }
  return rows;
}

/** Exponential average of the points shown, without the pull towards zero at the start. */
function average(values) {
  let sum = 0;
  let weight = 0;
  return values.map((value) => {
    if (value === null) return null;
    sum = SMOOTH * sum + (1 - SMOOTH) * value;
    weight = SMOOTH * weight + (1 - SMOOTH);
    return sum / weight;
  });
}

/** The live course of a metric as [steps, values]; empty without points. */
export const courseOf = (curves, name) => chain((curves[name] ?? []).filter((strand) => strand.live));

/** The value of a course at a step, between its neighbours; null without points. */
export function valueOn([steps, values], step) {
  if (!steps.length) return null;
  let [low, high] = [0, steps.length - 1];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (steps[middle] < step) low = middle + 1;
    else high = middle;
  }
  const before = Math.max(0, low - 1);
  const [x0, x1, y0, y1] = [steps[before], steps[low], values[before], values[low]];
  if (y0 === null || y1 === null || x1 === x0 || step >= x1) return y1 ?? y0;
  return step <= x0 ? y0 : y0 + ((y1 - y0) * (step - x0)) / (x1 - x0);
}
