// Calls of the server: JSON out, JSON or events back, refusals as errors. Knows the key, and nothing of the page.

const KEY = "charloom-key";

/** What the server, or the way to it, says no with. */
export class Refusal extends Error {
  constructor(status, message, code = "") {
    super(message);
    this.status = status;
    this.code = code;
  }
}

/** The caller's key; it lives as long as this tab, and leaves it in a header only. */
export const key = {
  get: () => sessionStorage.getItem(KEY) ?? "",
  set: (value) => (value ? sessionStorage.setItem(KEY, value) : sessionStorage.removeItem(KEY)),
};

async function answered(method, path, body, signal) {
  const headers = {};
  if (body !== undefined) headers["content-type"] = "application/json";
  if (key.get()) headers.authorization = `Bearer ${key.get()}`;
  let answer;
  try {
    answer = await fetch(path, { method, headers, body: JSON.stringify(body), signal });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new Refusal(0, "The server does not answer.");
  }
  if (answer.ok) return answer;
  const told = await answer.json().catch(() => ({}));
  throw refusal(answer.status, told.error);
}

const refusal = (status, error) => new Refusal(status, error?.message ?? `The server answered ${status}.`, error?.code);

/** The JSON that a route answers. */
export const call = async (method, path, body) => (await answered(method, path, body)).json();

/** The events of a stream, parsed. */
export async function* events(path, body, signal) {
  const answer = await answered("POST", path, { ...body, stream: true }, signal);
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n\n");
    rest = parts.pop();
    for (const part of parts) {
      if (!part.startsWith("data: ") || part === "data: [DONE]") continue;
      const event = JSON.parse(part.slice(6));
      if (event.error) throw refusal(500, event.error);
      yield event;
    }
  }
}
