// Where a logged value is no finite number: the line has a gap there, and this says why.

import { count, name as clean } from "../format.js";
import { colour } from "../theme.js";

const REACH = 7;
const MOST = 3;
const WORDS = { NaN: "not a number (NaN)", Infinity: "infinite", "-Infinity": "infinite (negative)" };

/** The places of these metrics on the live course: [{name, from, to, what}], values one behind the other as one place. */
export function oddsOf(curves, names) {
  return names.flatMap((name) => (curves[name] ?? []).filter((strand) => strand.live).flatMap((strand) => places(name, strand)));
}

function places(name, { steps, values, odd }) {
  const found = [];
  let open = null;
  let at = 0;
  for (let place = 0; place < values.length; place += 1) {
    if (values[place] !== null) {
      open = null;
      continue;
    }
    const what = odd?.[at] ?? "NaN";
    at += 1;
    if (open?.what === what) open.to = steps[place];
    else found.push((open = { name, from: steps[place], to: steps[place], what }));
  }
  return found;
}

/** What a place is, in words: `loss is not a number (NaN) at step 1,010`. */
export const sayOdd = (one) => `${clean(one.name)} is ${WORDS[one.what]} ${where(one)}`;
const where = ({ from, to }) => (from === to ? `at step ${count(from)}` : `from step ${count(from)} to ${count(to)}`);

/** All places in a sentence or two, empty without any. */
export function sayOdds(odds) {
  if (!odds.length) return "";
  const more = odds.length - MOST;
  const rest = more > 0 ? `, and so on at ${count(more)} more ${more === 1 ? "place" : "places"}` : "";
  return `${odds.slice(0, MOST).map(sayOdd).join("; ")}${rest}: the line has a gap there.`;
}

/** The place under the pointer (CSS pixels of the plot), null when there is none. */
export function oddAt(u, odds, left) {
  const [x, near] = [(step) => u.valToPos(step, "x"), { distance: REACH, one: null }];
  for (const one of odds) {
    const distance = Math.max(x(one.from) - left, left - x(one.to), 0);
    if (distance < near.distance) Object.assign(near, { distance, one });
  }
  return near.one;
}

/** A bar at the axis under each gap, and its name where there is room for it. */
export function drawOdds(u, odds) {
  const { ctx, bbox } = u;
  const ratio = devicePixelRatio || 1;
  const bottom = bbox.top + bbox.height;
  let free = -Infinity;
  ctx.save();
  ctx.fillStyle = colour("--bad");
  ctx.font = `600 ${10 * ratio}px system-ui, sans-serif`;
  ctx.textAlign = "center";
  ctx.textBaseline = "bottom";
  for (const one of odds) {
    if (one.to < u.scales.x.min || one.from > u.scales.x.max) continue;
    const [from, to] = [one.from, one.to].map((step) => u.valToPos(Math.min(u.scales.x.max, Math.max(u.scales.x.min, step)), "x", true));
    const [middle, width] = [(from + to) / 2, Math.max(to - from, 5 * ratio)];
    ctx.fillRect(middle - width / 2, bottom - 3 * ratio, width, 3 * ratio);
    const text = one.what === "NaN" ? "NaN" : one.what === "Infinity" ? "∞" : "-∞";
    const half = ctx.measureText(text).width / 2 + 3 * ratio;
    // A long gap has its name where it begins: there it ends what the line says.
    const place = Math.min(width > 4 * half ? from + half : middle, bbox.left + bbox.width - half);
    if (place - half < free) continue;
    free = place + half;
    ctx.fillText(text, place, bottom - 5 * ratio);
  }
  ctx.restore();
}
