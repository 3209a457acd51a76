// The page: which view is shown, what the server says as it happens, and whether it can be reached.

import { get, onReach } from "./api.js";
import { buildHeader } from "./components/header.js";
import { failure, notice } from "./components/parts.js";
import { installShortcuts } from "./components/shortcuts.js";
import { hideTip } from "./components/tooltip.js";
import { debounce, h, set } from "./dom.js";
import { address, parse } from "./router.js";
import { listen } from "./stream.js";
import { CheckpointView } from "./views/checkpoint.js";
import { DiskView } from "./views/disk.js";
import { HealthView } from "./views/health.js";
import { PolicyView } from "./views/policy.js";
import { RunView } from "./views/run.js";
import { RunsView } from "./views/runs.js";

const VIEWS = { runs: RunsView, run: RunView, checkpoint: CheckpointView, disk: DiskView, policy: PolicyView, health: HealthView };

const main = document.getElementById("main");
const banner = document.getElementById("banner");
const header = buildHeader(document.getElementById("top"));

let about = null;
let view = null;
let place = null;
let stop = null;
let heard = undefined;
let reachable = "ok";

/** Changes come in bursts; what changed is asked for once, a moment later. */
const changed = new Set();
const refresh = debounce(() => {
  const what = new Set(changed);
  changed.clear();
  attempt(() => view?.refresh(what));
}, 120);

async function show() {
  const next = parse(location.hash);
  if (next.view === "runs" && about?.single && !/^#\/runs/.test(location.hash)) {
    location.replace(address(about.single));
    return;
  }
  const moved = place !== null;
  place = next;
  hideTip();
  document.querySelector("dialog[open]")?.close();
  view?.destroy();
  changed.clear();
  refresh.cancel();
  header.show(place, about);
  document.title = "Keepstep";
  const current = new VIEWS[place.view]({ ...place, about, title });
  view = current;
  main.setAttribute("aria-busy", "true");
  hear(place.key);
  await attempt(() => current.load());
  if (view !== current) return;
  main.setAttribute("aria-busy", "false");
  if (moved) {
    scrollTo(0, 0);
    main.focus({ preventScroll: true });
  }
}

/** Run what may fail; a first load that fails becomes the page, a later one leaves the page as it is. */
async function attempt(action) {
  const current = view;
  try {
    await action();
    if (current && current === view && current.element.parentElement !== main) set(main, current.element);
  } catch (error) {
    if (error.name === "AbortError" || current !== view) return;
    if (!("status" in error)) throw error;
    if (current.element.parentElement !== main) set(main, h("div", { class: "view" }, failure(error, show)));
  }
}

function title(text) {
  document.title = text ? `${text} · Keepstep` : "Keepstep";
}

function hear(key) {
  if (heard === key) return;
  heard = key;
  stop?.();
  stop = listen(key, {
    run: (event) => {
      for (const what of event.changed ?? []) changed.add(what);
      refresh();
    },
    runs: () => {
      changed.add("runs");
      refresh();
    },
    points: (event) => view?.points?.(event.step, event.values, event.odd),
    verified: (event) => view?.verified?.(event),
    asked: (event) => view?.asked?.(event),
    // Too much happened to be told one by one: everything is asked for anew.
    behind: () => refresh(),
    open: (again) => {
      reach("ok");
      header.connection("live");
      // What happened while nobody listened is not told again; a run that began after the list was asked for, and before
      // this, would never be in it.
      if (again || place?.view === "runs") refresh();
    },
    lost: () => {
      header.connection("lost");
      get("api/about").catch(() => {});
    },
  });
}

function reach(how) {
  if (how === reachable) return;
  reachable = how;
  set(banner, how === "ok" ? [] : notice("warn", TROUBLE[how]()));
}

const TROUBLE = {
  lost: () => [h("strong", null, "Connection to keepstep ui lost. "), "What you see is as it was then; a training is not affected. Trying again… If it was stopped, start it with ", h("code", null, "keepstep ui"), " and open the link that it prints."],
  ended: () => [h("strong", null, "This page's link has ended. "), "keepstep ui was started again since: open the link that it printed then."],
};

onReach(reach);
addEventListener("hashchange", show);
addEventListener("pagehide", () => stop?.());
installShortcuts();
header.connection("lost");

try {
  about = await get("api/about");
} catch (error) {
  about = null;
  if (error.status === 401 || error.status === 403) set(main, h("div", { class: "view" }, failure(error, () => location.reload())));
}
await show();
