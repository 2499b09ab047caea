// The interface, as the page uses it. Knows nothing of what is shown.

const KEY = "taskfleet-key";

/** Why there is no answer: `status` 0 when nobody could be reached. */
export class Failure extends Error {
  constructor(status, code, message, retryAfter = null) {
    super(message);
    Object.assign(this, { status, code, retryAfter });
  }
}

/** The API key to send from now on; for this tab, until it is closed. */
export const useKey = (key) => sessionStorage.setItem(KEY, key);
export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** How the service is: replicas, router, experts. */
export async function state() {
  return read(await call("v1/experts", { signal: AbortSignal.timeout(5000) }));
}

/** The named fields of an expert's jobs. */
export async function fieldsOf(task) {
  const response = await call(`v1/models/${encodeURIComponent(task)}`, { signal: AbortSignal.timeout(30000) });
  const { taskfleet } = await read(response);
  if (!taskfleet.profile) throw new Failure(0, "unknown", `what ${task} is for cannot be said yet`);
  return taskfleet.profile.fields;
}

/** The interface's own description. */
export const description = async () => read(await call("openapi.json", {}));

/** A job's result. `onText` hears every piece of a text that is being written. */
export async function answer(job, onText, signal) {
  const stream = !("top" in job); // only one expert at a time can be listened to
  const headers = { "Content-Type": "application/json" };
  const response = await call("v1/jobs", {
    method: "POST",
    headers,
    body: JSON.stringify(stream ? { ...job, stream } : job),
    signal,
  });
  if (!response.headers.get("Content-Type").startsWith("text/event-stream")) return read(response);
  for await (const [name, data] of events(response)) {
    if (name === "text") onText(data);
    if (name === "result") return data;
  }
  throw new Failure(0, "lost", "the connection ended before the answer did");
}

async function read(response) {
  try {
    return await response.json();
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "lost", "the connection ended before the answer did");
  }
}

async function call(path, options) {
  const key = sessionStorage.getItem(KEY);
  const headers = { ...options.headers, ...(key ? { Authorization: `Bearer ${key}` } : {}) };
  let response;
  try {
    response = await fetch(path, { ...options, headers, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "unreachable", "the service cannot be reached");
  }
  if (response.ok) return response;
  const body = await response.clone().json().catch(() => ({}));
  // One job's own failure is a whole result, with its decision.
  if ("decision" in body) return response;
  const { code = String(response.status), message = response.statusText } = body.error ?? {};
  throw new Failure(response.status, code, message, Number(response.headers.get("Retry-After")) || null);
}

/** Server-sent events, as they come: name and data. */
async function* events(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  try {
    for (;;) {
      const { value, done } = await reader.read();
      if (done) return;
      const whole = (rest + value).split("\n\n");
      rest = whole.pop();
      for (const event of whole) {
        const lines = Object.fromEntries(event.split("\n").map((line) => line.split(/: (.*)/s)));
        if (lines.data) yield [lines.event, JSON.parse(lines.data)];
      }
    }
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Failure(0, "lost", "the connection was lost while the answer was written");
  } finally {
    reader.cancel().catch(() => {});
  }
}
