// The ComfyUI servers: what each can do, what it does now, and its drain.

import { get, taskPath } from "./api.js";
import { arrange, button, el, say, show, stillness } from "./dom.js";
import { nameOf } from "./task_row.js";
import { bytes, stageText, t } from "./text.js";

/** page: {may, drain(name, undo), open(task)}. */
export function instances(page) {
  const cards = new Map();
  const tasks = new Map(); // what runs, by id
  const list = el("ul", { class: "cards", "aria-label": t("instances") });
  const still = stillness(list);
  const empty = el("p", { class: "empty", text: t("instancesEmpty"), hidden: true });
  const node = el("section", { class: "view", "aria-labelledby": "view-title" },
    el("div", { class: "head" }, el("h2", { id: "view-title", text: t("instances") })), list, empty);

  async function update(found) {
    known = found;
    await still();
    if (known !== found) return; // somebody was told later
    const here = new Set(found.map((one) => one.name));
    for (const name of [...cards.keys()]) if (!here.has(name)) cards.delete(name);
    for (const one of found) {
      if (!cards.has(one.name)) cards.set(one.name, card(page, one.name));
      cards.get(one.name).update(one, tasks.get(one.running));
      if (one.running && !tasks.has(one.running)) learn(one.running);
    }
    arrange(list, found.map((one) => cards.get(one.name).node));
    show(empty, !found.length);
    show(list, found.length > 0);
    const running = new Set(found.map((one) => one.running));
    for (const id of [...tasks.keys()]) if (!running.has(id)) tasks.delete(id);
  }
  let known = [];

  async function learn(id) {
    tasks.set(id, null);
    tasks.set(id, await get(taskPath(id)).catch(() => null));
    update(known);
  }

  function change(changes) {
    for (const one of changes) {
      const task = tasks.get(one.task_id);
      if (task) cards.forEach((card) => card.progress(Object.assign(task, one)));
    }
  }
  return { node, update, change, reload() {}, end() {} };
}

function card(page, name) {
  let [here, task] = [null, null];
  const state = el("span", { class: "state" });
  const trouble = el("p", { class: "error" });
  const facts = Object.fromEntries(["card", "host", "tiers", "engines"].map((one) => [one, el("dd")]));
  const load = el("dd");
  const loadName = el("dt", { text: t("cardLoad") });
  const memory = el("dd");
  const bar = el("meter", { min: 0, max: 1, low: 0.7, high: 0.9, optimum: 0, "aria-label": `${t("memory")}: ${name}` });
  const runs = el("div", { class: "runs" });
  const job = button("", () => task && page.open(task), { kind: "name" });
  const stage = el("span", { class: "stage" });
  const progress = el("progress", { max: 100, "aria-label": `${t("runningJob")}: ${name}` });
  runs.append(el("p", { class: "line" }, job, stage), progress);
  const drain = button(t("drain"), () => page.drain(name, false), { kind: "quiet", label: t("drainLabel", { name }) });
  const undo = button(t("undrain"), () => page.drain(name, true), { label: t("undrainLabel", { name }) });
  const node = el("li", { class: "card", "data-instance": name },
    el("div", { class: "head" }, el("h3", { text: name }), state), trouble, runs,
    el("dl", { class: "facts" }, ...Object.entries(facts).flatMap(([one, dd]) => [el("dt", { text: t(one) }), dd]),
      loadName, load, el("dt", { text: t("memory") }), memory), bar,
    el("div", { class: "acts" }, drain, undo));

  function draw() {
    const work = here.running === undefined ? "ready" : here.running ? "busy" : "idle"; // not everybody is told
    const kind = here.unhealthy ? "unhealthy" : here.draining ? "draining" : work;
    node.className = `card ${kind}`;
    state.className = `state ${kind}`;
    say(state, t(kind));
    show(trouble, Boolean(here.unhealthy));
    say(trouble, typeof here.unhealthy === "string" ? here.unhealthy : "");
    say(facts.card, here.device || "–");
    say(facts.host, here.host || "–");
    say(facts.tiers, (here.tiers ?? []).join(", ") || "–");
    say(facts.engines, (here.engines ?? []).join(", ") || "–");
    const loaded = Number.isFinite(here.gpu_used); // 0 is known, too
    say(load, loaded ? `${Math.round(here.gpu_used * 100)} %` : "");
    for (const one of [loadName, load]) show(one, loaded);
    const [total, free] = [here.memory_total, here.memory_free];
    const room = total ? t("memoryFree", { free: bytes(free), total: bytes(total) }) : "";
    const taken = Number.isFinite(here.gpu_memory_used) ? t("memoryTaken", { taken: bytes(here.gpu_memory_used) }) : "";
    say(memory, [room, taken].filter(Boolean).join(" · ") || t("memoryUnknown"));
    show(bar, Boolean(total));
    if (total) bar.value = 1 - free / total;
    show(runs, Boolean(task));
    if (task) {
      say(job, nameOf(task));
      say(stage, stageText(task.stage));
      progress.value = task.percent;
    }
    show(drain, page.may("admin") && !here.draining);
    show(undo, page.may("admin") && here.draining);
  }
  return {
    node,
    update(found, running) {
      [here, task] = [found, running ?? null];
      draw();
    },
    progress(changed) {
      if (here?.running === changed.task_id) draw();
    },
  };
}
