// Runs before the first paint: a remembered theme must not flash. All else is asked for once the page's frame is drawn,
// so that no script stands between a reader and the first sight of it.
(() => {
  try {
    const theme = localStorage.getItem("keepstep.theme");
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
  } catch {
    // Storage may be switched off; the system's theme is used then.
  }

  const STYLES = ["css/components.css", "css/views.css", "vendor/uplot/uPlot.min.css"];
  // Every module, so that the browser asks for all at once and does not find them one import after the other.
  const MODULES = `
  api chart/curves chart/glyphs chart/lanes chart/marks chart/odd chart/panel chart/picker chart/runchart chart/series
  chart/zoom components/dialog components/header components/parts components/shortcuts components/table
  components/tooltip dom format icons prefs router stream theme views/apply views/asking views/checkpoint views/checkpoints
  views/compare views/disk views/diskchart views/diskparts views/timeaxis views/eventtext views/health views/marktext views/policy views/receipt views/replay
  views/run views/runrow views/runs views/stalls views/strip views/verdict
  `;

  const add = (tag, properties) =>
    new Promise((resolve, reject) => {
      const element = Object.assign(document.createElement(tag), { onload: resolve, onerror: reject }, properties);
      document.head.append(element);
    });

  async function load() {
    const needed = STYLES.map((name) => add("link", { rel: "stylesheet", href: `static/${name}` }));
    needed.push(add("script", { src: "static/vendor/uplot/uPlot.iife.min.js" }));
    for (const name of ["main", ...MODULES.trim().split(/\s+/)]) {
      add("link", { rel: "modulepreload", href: `static/js/${name}.js` }).catch(() => {});
    }
    await Promise.all(needed);
    await add("script", { type: "module", src: "static/js/main.js" });
  }

  function failed() {
    const text = "The page could not be loaded in full: is keepstep ui still running? Reload to try again.";
    const main = document.getElementById("main");
    main.setAttribute("aria-busy", "false");
    main.replaceChildren(Object.assign(document.createElement("p"), { className: "noscript", textContent: text }));
  }

  // Two steps: after a frame was drawn. A page in the background draws none, and need not hurry.
  addEventListener("DOMContentLoaded", () => requestAnimationFrame(() => setTimeout(() => load().catch(failed))));
})();
