// Sizes, numbers, times and ages as the command line writes them.

const SIZES = ["B", "kB", "MB", "GB", "TB", "PB"];
const SPANS = [[60, 1, "s"], [3600, 60, "min"], [172800, 3600, "h"], [5184000, 86400, "d"]];

const whole = new Intl.NumberFormat("en-GB", { maximumFractionDigits: 0 });
const moment = new Intl.DateTimeFormat("en-GB", { dateStyle: "medium", timeStyle: "medium" });
const NONE = "–";

/** Bytes in decimal units: `999 B`, `1.4 kB`, `140 GB`. */
export function size(bytes) {
  if (bytes === null || bytes === undefined) return NONE;
  let value = Math.abs(bytes);
  let unit = 0;
  while (unit + 1 < SIZES.length && Number(digits(value, unit)) >= 1000) {
    value /= 1000;
    unit += 1;
  }
  return `${bytes < 0 && Number(digits(value, unit)) ? "-" : ""}${digits(value, unit)} ${SIZES[unit]}`;
}

function digits(value, unit) {
  return unit === 0 || value >= 99.95 ? value.toFixed(0) : value.toFixed(1);
}

/** A step with thousands apart: `12,400`. */
export const count = (number) => (number === null || number === undefined ? NONE : whole.format(Math.round(number) || 0));

/** `1 checkpoint`, `3 checkpoints`. */
export const plural = (number, noun, many = `${noun}s`) => `${count(number)} ${number === 1 ? noun : many}`;

/** A metric in at most five significant digits; the names of what is no finite number stay. */
export function metric(value) {
  if (value === null || value === undefined) return NONE;
  if (typeof value === "string") return value;
  if (!Number.isFinite(value)) return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-4) return value.toExponential(3).replace(/\.?0+e/, "e");
  return String(Number(value.toPrecision(5)));
}

/** An epoch: `1.50`. */
export const epoch = (number) => (number === null || number === undefined ? NONE : (Math.round(100 * number) / 100 || 0).toFixed(2));

/** Seconds in one unit: `0.83 s`, `12 ms`, `4.5 min`. */
export function duration(seconds) {
  if (seconds === null || seconds === undefined || !Number.isFinite(seconds)) return NONE;
  if (seconds < 0.0005) return "0 ms";
  if (seconds < 0.1) return `${Math.round(seconds * 1000)} ms`;
  for (const [limit, unit, name] of SPANS) if (seconds < limit) return `${short(seconds / unit)} ${name}`;
  return `${short(seconds / 86400)} d`;
}

const short = (value) => (value < 10 ? String(Number(value.toPrecision(2))) : String(Math.round(value)));

/** Time since then in one unit: `12 s`, `3 min`, `5 h`, `9 d`. */
export function age(iso, now = Date.now()) {
  if (!iso) return NONE;
  const seconds = Math.max(0, Math.floor((now - Date.parse(iso)) / 1000));
  for (const [limit, unit, name] of SPANS) if (seconds < limit) return `${Math.floor(seconds / unit)} ${name}`;
  const days = Math.floor(seconds / 86400);
  return days < 730 ? `${Math.floor(days / 30)} mo` : `${Math.floor(days / 365)} y`;
}

/** A moment in the reader's time zone. */
export const time = (iso) => (iso ? moment.format(new Date(iso)) : NONE);

/** A share of a whole, in percent. */
export const percent = (part, all) => (all ? `${Math.round((100 * part) / all) || 0} %` : NONE);

const HIDDEN = /[\u0000-\u001f\u007f-\u009f\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufeff]/g;

/** A name from disk: characters that hide, or turn the direction of text, are written out. */
export const name = (text) =>
  String(text ?? "").replace(HIDDEN, (char) => `\\u${char.codePointAt(0).toString(16).padStart(4, "0")}`);

/** Any plain value of a manifest, in one line. */
export function value(thing) {
  if (thing === null || thing === undefined) return "not set";
  if (typeof thing === "number") return Number.isInteger(thing) ? count(thing) : metric(thing);
  return name(typeof thing === "object" ? JSON.stringify(thing) : thing);
}
