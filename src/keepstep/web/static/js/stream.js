// Events of the server as they happen. A lost connection is made anew, with growing pauses, until the page goes.

const PAUSES = [500, 1000, 2000, 4000, 8000];

/** Listen to a run's events (`key` null: to the list of runs). `on`: {run, points, runs, verified, asked, behind, open, lost}. */
export function listen(key, on) {
  let source = null;
  let timer = 0;
  let failures = 0;
  let closed = false;

  function open() {
    source = new EventSource(key === null ? "api/stream" : `api/stream?run=${encodeURIComponent(key)}`);
    source.onopen = () => {
      const again = failures > 0;
      failures = 0;
      on.open?.(again);
    };
    source.onerror = () => {
      source.close();
      if (closed) return;
      on.lost?.();
      timer = setTimeout(open, PAUSES[Math.min(failures, PAUSES.length - 1)]);
      failures += 1;
    };
    for (const name of ["run", "points", "runs", "verified", "asked", "behind"]) {
      source.addEventListener(name, (event) => on[name]?.(JSON.parse(event.data || "{}")));
    }
  }

  open();
  return () => {
    closed = true;
    clearTimeout(timer);
    source.close();
  };
}
