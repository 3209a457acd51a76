// Elements from plain calls. Text always goes in as text nodes: no name of a run or file is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

/** An element: `on` are listeners, `data` a dataset, `style` CSSOM properties; other properties are attributes. */
export function h(tag, props, ...children) {
  return fill(document.createElement(tag), props, children);
}

/** The same for SVG. */
export function s(tag, props, ...children) {
  return fill(document.createElementNS(SVG, tag), props, children);
}

function fill(element, props, children) {
  for (const [name, value] of Object.entries(props ?? {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name === "style") for (const [key, text] of Object.entries(value)) element.style.setProperty(key, text);
    else if (name === "value" || name === "checked" || name === "disabled" || name === "tabIndex") element[name] = value;
    else element.setAttribute(name === "class" ? "class" : name, value === true ? "" : String(value));
  }
  element.append(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Replace what an element holds. */
export function set(element, ...children) {
  element.replaceChildren(...children.flat(3).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** Call `action` once, `wait` milliseconds after the last of several calls. */
export function debounce(action, wait) {
  let timer = 0;
  const run = (...args) => {
    clearTimeout(timer);
    timer = setTimeout(() => action(...args), wait);
  };
  run.cancel = () => clearTimeout(timer);
  return run;
}

/** Call `action` at most once in `wait` milliseconds; the last call is never lost. */
export function throttle(action, wait) {
  let timer = 0;
  let last = -Infinity;
  const run = () => {
    if (timer) return;
    const now = performance.now();
    const fire = () => {
      timer = 0;
      last = performance.now();
      action();
    };
    if (now - last >= wait) fire();
    else timer = setTimeout(fire, wait - (now - last));
  };
  run.cancel = () => clearTimeout(timer);
  return run;
}

/** Say something to screen readers without moving the focus. */
export function announce(text) {
  const region = document.getElementById("live");
  if (region) region.textContent = text;
}
