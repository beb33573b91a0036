// The server's routes as functions. In: what to ask. Out: plain values, or pieces of a stream. Every refusal is a ServerError with
// the server's own words, its status and its code. The key, where one is needed, lives in sessionStorage and goes nowhere else.
import { events } from "./events.js";

const KEY = "puna-key";
export const key = {
  get: () => window.sessionStorage.getItem(KEY),
  set: (value) => window.sessionStorage.setItem(KEY, value),
  forget: () => window.sessionStorage.removeItem(KEY),
};

export class ServerError extends Error {
  constructor(status, message, { code = null, param = null, after = null } = {}) {
    super(message);
    Object.assign(this, { status, code, param, after });
  }
}

// Asks the reader for a key; set by the page. Gives true where there is a new one to try.
let askForKey = async () => false;
export const onKeyNeeded = (ask) => {
  askForKey = ask;
};

const refusal = async (response) => {
  let error = {};
  try {
    error = (await response.json()).error ?? {};
  } catch {
    error = {}; // no JSON: a proxy's page, say. The status alone is told.
  }
  const after = Number.parseInt(response.headers.get("Retry-After") ?? "", 10);
  const message = typeof error.message === "string" ? error.message : `HTTP ${response.status}`;
  return new ServerError(response.status, message, { code: error.code ?? null, param: error.param ?? null, after: Number.isNaN(after) ? null : after });
};

const ask = async (path, { body = null, signal = null } = {}) => {
  for (;;) {
    const used = key.get();
    const headers = { ...(body && { "Content-Type": "application/json" }), ...(used && { Authorization: `Bearer ${used}` }) };
    const options = { method: body ? "POST" : "GET", headers, body: body && JSON.stringify(body), signal, credentials: "omit", cache: "no-store", redirect: "error" };
    let response;
    try {
      response = await fetch(path, options);
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new ServerError(0, error.message);
    }
    if (response.ok) return response;
    const error = await refusal(response);
    const changed = key.get() !== used; // another request has asked in the meantime
    if (error.status !== 401 || !(changed || (await askForKey(used !== null)))) throw error;
  }
};

// [{ id, ... }] as GET /v1/models lists them.
export const models = async () => {
  const answer = await (await ask("/v1/models")).json();
  if (!Array.isArray(answer?.data)) throw new ServerError(200, "no list of models", { code: "form" });
  return answer.data.filter((one) => typeof one?.id === "string");
};

// The ids of a text ({ model, prompt }) or of messages ({ model, messages }).
export const tokenize = async (body, signal) => {
  const answer = await (await ask("/tokenize", { body, signal })).json();
  if (!Array.isArray(answer?.tokens)) throw new ServerError(200, "no list of tokens", { code: "form" });
  return answer.tokens;
};

export const about = async (model) => (await ask(`/about/${encodeURIComponent(model)}`)).json();

// The pieces of a reply: { text }, then { finish }, then { usage }. Throws ServerError; AbortError where `signal` ended it. A stream
// that ends without a finish reason gives { finish: "cut" }.
async function* pieces(path, body, signal, textOf) {
  const response = await ask(path, { body: { ...body, stream: true, stream_options: { include_usage: true } }, signal });
  let finish = null;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") break;
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ServerError(200, String(chunk.error.message), { code: chunk.error.code ?? "stream" });
      const choice = chunk.choices?.[0];
      const text = choice && textOf(choice);
      if (text) yield { text };
      if (choice?.finish_reason) yield { finish: (finish = choice.finish_reason) };
      if (chunk.usage) yield { usage: chunk.usage };
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    if (error instanceof SyntaxError) throw new ServerError(200, error.message, { code: "form" });
    // The connection broke: what came is a reply that was cut.
  }
  if (finish === null) yield { finish: "cut" };
}

export const chat = (body, signal) => pieces("/v1/chat/completions", body, signal, (choice) => choice.delta?.content);
export const complete = (body, signal) => pieces("/v1/completions", body, signal, (choice) => choice.text);
