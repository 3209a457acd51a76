// The server's JSON, with its errors as they are meant for people.

/** A refusal of the server, or (status 0) a server that does not answer. */
export class ApiError extends Error {
  constructor(status, code, message, hint) {
    super(message);
    this.status = status;
    this.code = code;
    this.hint = hint;
  }
}

const listeners = new Set();

/** Told after each question: "ok", "lost" when the server does not answer, "ended" when it knows this browser no more. */
export function onReach(listener) {
  listeners.add(listener);
  return () => listeners.delete(listener);
}

function reached(how) {
  for (const listener of listeners) listener(how);
}

async function request(path, options) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    reached("lost");
    throw new ApiError(0, "unreachable", "The server does not answer.", "Start it again with: keepstep ui");
  }
  reached(response.status === 401 ? "ended" : "ok");
  const body = await response.json().catch(() => null);
  if (response.ok) return body;
  const said = body?.error ?? {};
  const message = said.message ?? `The server answered ${response.status}.`;
  throw new ApiError(response.status, said.code ?? "http", message, said.hint ?? null);
}

/** GET as JSON; parameters that are null are left out. */
export function get(path, parameters, signal) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters ?? {})) {
    if (value !== null && value !== undefined && value !== "") query.set(name, value);
  }
  const text = query.toString();
  return request(text ? `${path}?${text}` : path, { signal });
}

/** POST JSON with the token against forged requests. */
export function post(path, body, csrf) {
  return request(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", "X-Keepstep-CSRF": csrf },
    body: JSON.stringify(body),
  });
}

/** Paths of one run. */
export const runPath = (key, ...rest) => ["api/runs", encodeURIComponent(key), ...rest].join("/");
