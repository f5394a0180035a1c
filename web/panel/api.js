// The gateway's API. The key is in the tab's own storage and in a header, never in an address.

const KEY = "sonic-queue-key";
const SHAPE = /^sq_[0-9a-f]{8}_[A-Za-z0-9_-]{43}$/;
const PART = 1 << 20;
let base = ""; // what stands before every path, where the API is not at the root of its server

export const setBase = (text) => (base = text);
export const addressOf = (path) => `${base}${path}`;

/** Raised for every answer that is none of the wanted ones. kind: the gateway's word for it; waitS: Retry-After. */
export class Problem extends Error {
  constructor(status, kind, sentence, waitS = 0) {
    super(sentence);
    Object.assign(this, { status, kind, waitS });
  }
}

export const key = () => sessionStorage.getItem(KEY) ?? "";
export const hasKey = () => key() !== "";
export const isKey = (text) => SHAPE.test(text);
export const setKey = (text) => sessionStorage.setItem(KEY, text);
export const forgetKey = () => sessionStorage.removeItem(KEY);

function headersWith(more = {}) {
  return hasKey() ? { ...more, Authorization: `Bearer ${key()}` } : more;
}

/** The answer as it comes. Raises Problem when the gateway cannot be reached. */
export async function raw(path, { method = "GET", headers = {}, body, signal } = {}) {
  try {
    return await fetch(addressOf(path), { method, headers: headersWith(headers), body, signal, cache: "no-store" });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Problem(0, "unreachable", "");
  }
}

/** What is wrong, out of an answer. */
export async function problemOf(answer) {
  const said = await answer.json().catch(() => ({}));
  return problemFrom(answer.status, said, answer.headers.get("Retry-After"));
}

function problemFrom(status, said, retryAfter) {
  const kind = String(said.type ?? "").split(":").pop();
  return new Problem(status, kind, said.detail || said.title || "", Number(retryAfter) || 0);
}

/** JSON in, JSON out. Raises Problem. */
export async function ask(method, path, fields) {
  const sent = fields === undefined ? {} : { headers: { "Content-Type": "application/json" }, body: JSON.stringify(fields) };
  const answer = await raw(path, { method, ...sent });
  if (!answer.ok) throw await problemOf(answer);
  return answer.json();
}

export const get = (path) => ask("GET", path);

/** A picture or the like; null when there is none. Raises Problem. */
export async function blob(path) {
  const answer = await raw(path);
  if (answer.status === 404) return null;
  if (!answer.ok) throw await problemOf(answer);
  return answer.blob();
}

/** A form with files. progress: takes 0 to 1. Raises Problem. */
export function upload(path, form, { once, progress = () => {} }) {
  return new Promise((resolve, reject) => {
    const request = new XMLHttpRequest(); // as fetch tells nothing of what has been sent
    request.open("POST", addressOf(path));
    for (const [name, value] of Object.entries(headersWith({ "Idempotency-Key": once }))) {
      request.setRequestHeader(name, value);
    }
    request.responseType = "json";
    request.upload.addEventListener("progress", (event) => event.lengthComputable && progress(event.loaded / event.total));
    request.addEventListener("load", () => {
      const said = request.response ?? {};
      if (request.status === 202) resolve(said);
      else reject(problemFrom(request.status, said, request.getResponseHeader("Retry-After")));
    });
    request.addEventListener("error", () => reject(new Problem(0, "unreachable", "")));
    request.send(form);
  });
}

/** A video in parts, as an element that plays it can send no key. progress: takes 0 to 1. Raises Problem. */
export async function inParts(path, kind, { progress = () => {}, signal }) {
  let parts = [];
  let [at, total, tag] = [0, Infinity, ""];
  while (at < total) {
    const headers = { Range: `bytes=${at}-${at + PART - 1}`, ...(tag ? { "If-Range": tag } : {}) };
    const answer = await raw(path, { headers, signal });
    if (!answer.ok) throw await problemOf(answer);
    if (answer.status === 200) [parts, at] = [[], 0]; // another version lies there by now
    const part = await answer.blob();
    parts.push(part);
    at += part.size;
    total = answer.status === 200 ? at : Number(answer.headers.get("Content-Range").split("/")[1]);
    tag = answer.headers.get("ETag") ?? "";
    progress(at / total);
  }
  return new Blob(parts, { type: kind });
}

export const taskPath = (id) => `/v1/tasks/${encodeURIComponent(id)}`;
export const batchPath = (id) => `/v1/batches/${encodeURIComponent(id)}`;
