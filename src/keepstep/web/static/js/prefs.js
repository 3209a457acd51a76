// What this browser remembers of the reader's choices.

const PREFIX = "keepstep.";

/** A remembered value, or `fallback`. */
export function recall(name, fallback = null) {
  try {
    const text = localStorage.getItem(PREFIX + name);
    return text === null ? fallback : JSON.parse(text);
  } catch {
    return fallback;
  }
}

/** Remember a value; a browser without storage forgets it, and nothing else happens. */
export function remember(name, value) {
  try {
    localStorage.setItem(PREFIX + name, JSON.stringify(value));
  } catch {
    // Storage may be full or switched off.
  }
}
