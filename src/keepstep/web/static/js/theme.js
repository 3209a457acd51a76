// Light and dark: the system's choice, until the reader makes one. Colours for canvases come from the same CSS tokens.

const KEY = "keepstep.theme";
const system = matchMedia("(prefers-color-scheme: dark)");
const listeners = new Set();
let resolved = new Map();

/** "light" or "dark", as it is shown now. */
export function theme() {
  return document.documentElement.dataset.theme || (system.matches ? "dark" : "light");
}

/** Change to the other theme and remember it. */
export function toggleTheme() {
  const next = theme() === "dark" ? "light" : "dark";
  document.documentElement.dataset.theme = next;
  try {
    localStorage.setItem(KEY, next);
  } catch {
    // Without storage the choice holds for this page.
  }
  changed();
  return next;
}

/** Call `listener` when colours change; returns a function that ends it. */
export function onTheme(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

const CATEGORIES = ["--cat-1", "--cat-3", "--cat-4", "--cat-5", "--cat-6"];
const GOLDEN = 137.508;

/** What names the colour of a line by its place: of the first few a CSS token, after that `hue:N`. */
export const tokenOf = (place) => CATEGORIES[place] ?? `hue:${place - CATEGORIES.length}`;

/** A colour as CSS takes it. Hues go round by the golden angle, so that none comes twice; each turn has its lightness. */
export function paint(token) {
  if (!token.startsWith("hue:")) return `var(${token})`;
  const at = Number(token.slice(4));
  const hue = ((285 + at * GOLDEN) % 360).toFixed(1);
  const [light, dark] = [[34, 72], [48, 58], [26, 84]][at % 3];
  return `light-dark(hsl(${hue} 70% ${light}%), hsl(${hue} 65% ${dark}%))`;
}

/** The colour that a CSS token has now, as canvas takes it. */
export function colour(token) {
  if (!resolved.has(token)) {
    const probe = document.createElement("span");
    probe.hidden = true;
    probe.style.color = paint(token);
    document.body.append(probe);
    resolved.set(token, getComputedStyle(probe).color);
    probe.remove();
  }
  return resolved.get(token);
}

/** The same colour, `alpha` of it opaque. */
export function faded(token, alpha) {
  const parts = colour(token).match(/[\d.]+/g);
  return parts ? `rgba(${parts[0]}, ${parts[1]}, ${parts[2]}, ${alpha})` : colour(token);
}

function changed() {
  resolved = new Map();
  for (const listener of listeners) listener();
}

system.addEventListener("change", changed);
