// Labels of an axis of time: as fine as the steps between them, each said once.

const [MINUTE, DAY, MONTH] = [60, 86400, 28 * 86400];
const seconds = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit", second: "2-digit" });
const minutes = new Intl.DateTimeFormat("en-GB", { hour: "2-digit", minute: "2-digit" });
const days = new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short" });
const months = new Intl.DateTimeFormat("en-GB", { month: "short" });
const years = new Intl.DateTimeFormat("en-GB", { year: "numeric" });

/** Distances between labels, in seconds: never less than what a label can say. */
export const STEPS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, DAY, 2 * DAY, 4 * DAY, 7 * DAY, 14 * DAY, MONTH, 2 * MONTH, 3 * MONTH, 6 * MONTH, 365 * DAY];

/** Texts for moments (seconds since the epoch) that lie `step` seconds apart; a second line says the day, or the year. */
export function labels(moments, step) {
  const fine = step < MINUTE ? seconds : step < DAY ? minutes : step < MONTH ? days : months;
  const coarse = step < DAY ? days : years;
  let above = "";
  const said = new Set();
  return moments.map((moment) => {
    const at = new Date(moment * 1000);
    const [text, group] = [fine.format(at), coarse.format(at)];
    // In the night when the clocks go back an hour comes twice, and is said once.
    const again = said.has(`${group} ${text}`);
    said.add(`${group} ${text}`);
    const full = group === above ? text : `${text}\n${group}`;
    above = group;
    return again ? "" : full;
  });
}

/** The ends of an axis for moments: at least a few seconds, so that a burst of saves is told apart from a standstill. */
export function ends(first, last) {
  const room = Math.max(0, 4 - (last - first)) / 2;
  return [first - room, last + room];
}
