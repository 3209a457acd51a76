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

/** The colour that a CSS token has now, as canvas takes it. */
export function colour(token) {
  if (!resolved.has(token)) {
    const probe = document.createElement("span");
    probe.hidden = true;
    probe.style.color = `var(${token})`;
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
