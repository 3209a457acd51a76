// The address behind `#`: #/runs, #/run/KEY, #/run/KEY/checkpoint/GENERATION, #/run/KEY/(disk|policy|health).

const TABS = ["disk", "policy", "health"];

/** What an address names: {view, key, generation}. An unknown one names the runs. */
export function parse(hash) {
  const [, room, key, tab, last] = (hash || "").replace(/^#/, "").split("/").map(decode);
  if (room !== "run" || !key) return { view: "runs", key: null, generation: null };
  if (tab === "checkpoint" && /^\d+$/.test(last ?? "")) return { view: "checkpoint", key, generation: Number(last) };
  return { view: TABS.includes(tab) ? tab : "run", key, generation: null };
}

function decode(part) {
  try {
    return decodeURIComponent(part);
  } catch {
    return part;
  }
}

/** The address of a view of a run. */
export function address(key, view = "run", generation = null) {
  if (!key) return "#/runs";
  const base = `#/run/${encodeURIComponent(key)}`;
  if (view === "checkpoint") return `${base}/checkpoint/${generation}`;
  return view === "run" ? base : `${base}/${view}`;
}

/** Go to an address. */
export function go(hash) {
  location.hash = hash;
}
