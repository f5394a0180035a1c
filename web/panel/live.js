// One stream of events: a snapshot, then what changes. It comes back by itself and goes on where it was cut off.

import { Problem, problemOf, raw } from "./api.js";

const SILENT_MS = 40_000; // something comes at least every 15 s
const LONGEST_WAIT_MS = 15_000;

/** What one server-sent event says, for each that is whole; the rest waits for more. */
export class Lines {
  #text = "";

  /** Events [{kind, id, data}] that are whole with this piece. */
  read(piece) {
    const found = [];
    const blocks = (this.#text + piece).split("\n\n");
    this.#text = blocks.pop();
    for (const block of blocks) {
      const said = {};
      for (const line of block.split("\n")) {
        const at = line.indexOf(": ");
        if (at > 0) said[line.slice(0, at)] = line.slice(at + 2);
      }
      if (said.data) found.push({ kind: said.event, id: said.id, data: JSON.parse(said.data) });
    }
    return found;
  }
}

/** tell(kind, data): for each event. state(name, problem): "live", "away", "lost", "locked" or "refused". */
export class Live {
  #abort = null;
  #lastId = "";
  #failures = 0;
  #wake = null;

  constructor(tell, state) {
    this.tell = tell;
    this.state = state;
    addEventListener("online", () => this.#wake?.());
  }

  start() {
    this.stop();
    this.#failures = 0;
    this.#lastId = "";
    this.#run((this.#abort = new AbortController()));
  }

  stop() {
    this.#abort?.abort();
    this.#wake?.();
  }

  async #run(abort) {
    while (!abort.signal.aborted) {
      let problem = null;
      try {
        problem = await this.#listen(abort.signal);
      } catch (error) {
        problem = error;
        if (error.name !== "AbortError" && error.name !== "TypeError" && !(error instanceof Problem)) console.error(error);
      }
      if (abort.signal.aborted) return;
      if (problem?.status === 401 || problem?.status === 403) {
        this.state(problem.status === 401 ? "locked" : "refused", problem);
        return;
      }
      this.#failures += 1;
      if (problem || this.#failures > 1) this.state("lost", problem);
      const backOff = Math.min(LONGEST_WAIT_MS, 250 * 2 ** Math.min(this.#failures, 6));
      const wait = problem?.waitS ? problem.waitS * 1000 : backOff * (0.75 + Math.random() / 2);
      await new Promise((resolve) => {
        this.#wake = resolve;
        setTimeout(resolve, wait);
      });
    }
  }

  /** Until the stream ends; answers what was wrong, or null. */
  async #listen(signal) {
    const line = new AbortController();
    const cut = () => line.abort();
    signal.addEventListener("abort", cut);
    let watch = setTimeout(cut, SILENT_MS);
    try {
      const headers = { Accept: "text/event-stream", ...(this.#lastId ? { "Last-Event-ID": this.#lastId } : {}) };
      const answer = await raw("/v1/events", { headers, signal: line.signal });
      if (!answer.ok) return await problemOf(answer); // before the line is cut below, and the answer with it
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      const lines = new Lines();
      for (;;) {
        const { value, done } = await reader.read();
        if (done) return null;
        clearTimeout(watch);
        watch = setTimeout(cut, SILENT_MS);
        if (signal.aborted) return null;
        for (const { kind, id, data } of lines.read(value)) {
          if (id) this.#lastId = id;
          this.#failures = 0;
          this.state(kind === "away" ? "away" : "live");
          this.tell(kind, data);
        }
      }
    } finally {
      clearTimeout(watch);
      signal.removeEventListener("abort", cut);
      line.abort();
    }
  }
}
