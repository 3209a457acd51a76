// Small line icons, drawn as SVG elements.

import { s } from "./dom.js";

const PATHS = {
  sun: ["M8 5a3 3 0 1 0 0 6 3 3 0 0 0 0-6z", "M8 1v1.5M8 13.5V15M1 8h1.5M13.5 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1"],
  moon: ["M13.5 9.7A6 6 0 0 1 6.3 2.5a6 6 0 1 0 7.2 7.2z"],
  copy: ["M6 6h7.5v7.5H6z", "M10 6V2.5H2.5V10H6"],
  check: ["M3 8.5 6.5 12 13 4.5"],
  cross: ["M4 4l8 8M12 4l-8 8"],
  help: ["M6 6.2A2 2 0 1 1 8.6 8c-.5.3-.6.6-.6 1.3", "M8 11.6v.2"],
  left: ["M10 3 5 8l5 5"],
  right: ["M6 3l5 5-5 5"],
  pin: ["M6 2h4l-.5 4.5L12 9H4l2.5-2.5z", "M8 9v5"],
  warning: ["M8 2 1.5 13.5h13z", "M8 6.5v3M8 11.6v.2"],
  info: ["M8 7.2V12M8 4.6v.2"],
  search: ["M7 2.5a4.5 4.5 0 1 0 0 9 4.5 4.5 0 0 0 0-9z", "M10.5 10.5 14 14"],
  plus: ["M8 3v10M3 8h10"],
  minus: ["M3 8h10"],
  whole: ["M2 8h12M2 8l3-3M2 8l3 3M14 8l-3-3M14 8l-3 3"],
};

/** An icon of 16 px that screen readers pass over: what it stands on has a label. */
export function icon(name) {
  const lines = PATHS[name].map((d) => s("path", { d }));
  return s("svg", { viewBox: "0 0 16 16", class: "icon", "aria-hidden": "true" }, ...lines);
}
