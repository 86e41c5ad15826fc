// The server's routes, its errors as words, and the events of a job.

const ENDED = ["done", "failed", "cancelled", "gone"];
const NAMES = [...ENDED, "waiting", "at_work"];

/** Ask the server; an error carries its message. */
export async function ask(path, { method = "GET", body, signal } = {}) {
  const headers = body === undefined ? {} : { "content-type": "application/json" };
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), signal });
  } catch (error) {
    throw error.name === "AbortError" ? error : new Error("The server does not answer; is it still running?");
  }
  const told = await answer.json().catch(() => null);
  if (!answer.ok) {
    const message = told?.error?.message ?? told?.error;
    throw new Error(message || `The server answered with status ${answer.status}.`);
  }
  return told;
}

export const pathOf = (name) => `/v1/adapters/${encodeURIComponent(name)}`;

/** Follow a job to its end; `hear` is told each state, and `lost` that the connection is. */
export function follow(job, hear, lost) {
  return new Promise((resolve, reject) => {
    const source = new EventSource(job.events);
    const take = (event) => {
      const state = JSON.parse(event.data);
      hear(state);
      if (!ENDED.includes(state.status)) return;
      source.close();
      resolve(state);
    };
    for (const name of NAMES) source.addEventListener(name, take);
    source.addEventListener("error", () => {
      lost();
      if (source.readyState === EventSource.CLOSED) polled(job, hear).then(resolve, reject);
      // Otherwise the browser connects again by itself.
    });
  });
}

async function polled(job, hear) {
  for (;;) {
    const state = await ask(`/v1/jobs/${job.id}`);
    hear(state);
    if (ENDED.includes(state.status)) return state;
    await new Promise((resume) => setTimeout(resume, 2000));
  }
}
