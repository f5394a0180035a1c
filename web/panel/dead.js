// The dead letter: jobs whose attempts are used up, each with its error.

import { get } from "./api.js";
import { arrange, button, el, say, show, stillness } from "./dom.js";
import { taskRow } from "./task_row.js";
import { t } from "./text.js";

const LIMIT = 200;
const AGAIN_MS = 1000;

/** page: as for taskRow, with fail, retryAll(tasks). */
export function dead(page) {
  const rows = new Map();
  let [tasks, last, waits, gone] = [[], 0, false, false];
  const list = el("ol", { class: "rows", "aria-label": t("dead") });
  const still = stillness(list);
  const empty = el("p", { class: "empty", text: t("deadEmpty"), hidden: true });
  const more = el("p", { class: "quiet", text: t("deadMore", { n: LIMIT }), hidden: true });
  const all = button(t("retryAll"), () => page.retryAll(tasks), { hidden: true });
  const what = el("p", { class: "quiet", text: t("deadWhat"), hidden: true });
  const node = el("section", { class: "view", "aria-labelledby": "view-title" },
    el("div", { class: "head" }, el("h2", { id: "view-title", text: t("dead") }), all), what, list, more, empty);

  async function load() {
    [last, waits] = [Date.now(), false];
    try {
      ({ tasks } = await get(`/v1/dead?limit=${LIMIT}`));
      await still();
    } catch (problem) {
      if (!gone) page.fail(problem);
      return;
    }
    if (gone) return;
    const here = new Set(tasks.map((task) => task.task_id));
    for (const id of [...rows.keys()]) if (!here.has(id)) rows.delete(id);
    for (const task of tasks) {
      if (!rows.has(task.task_id)) rows.set(task.task_id, taskRow(page, task, { isDead: true }));
      else rows.get(task.task_id).update(task);
    }
    arrange(list, tasks.map((task) => rows.get(task.task_id).node));
    show(empty, !tasks.length);
    show(what, tasks.length > 0);
    show(more, tasks.length === LIMIT);
    show(all, tasks.length > 1 && page.may("submit"));
    say(all, `${t("retryAll")} (${tasks.length})`);
  }

  function change(changes) {
    const news = changes.some((one) => one.state === "failed" || rows.has(one.task_id));
    if (!news || waits) return;
    waits = true;
    setTimeout(() => !gone && load(), Math.max(200, last + AGAIN_MS - Date.now()));
  }

  load();
  return { node, reload: load, change, end: () => (gone = true) };
}
