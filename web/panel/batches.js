// Batches: what was submitted together, how far it is, and its end by hand.

import { get } from "./api.js";
import { arrange, button, el, say, show, stillness } from "./dom.js";
import { isStep } from "./task_row.js";
import { ago, number, t } from "./text.js";

const A_PAGE = 50;
const AGAIN_MS = 1000;
const PARTS = ["completed", "failed", "cancelled"];

/** page: {may, fail, go, cancelBatch(batch)}. */
export function batches(page) {
  const rows = new Map();
  let [cursors, next, last, waits, gone] = [[""], null, 0, false, false];
  const list = el("ol", { class: "rows", "aria-label": t("batches") });
  const still = stillness(list);
  const empty = el("p", { class: "empty", text: t("batchesEmpty"), hidden: true });
  const newer = button(t("newer"), () => turn(cursors.slice(0, -1)), { kind: "quiet", hidden: true });
  const older = button(t("more"), () => turn([...cursors, next]), { kind: "quiet", hidden: true });
  const node = el("section", { class: "view", "aria-labelledby": "view-title" },
    el("div", { class: "head" }, el("h2", { id: "view-title", text: t("batches") })), list, empty,
    el("nav", { class: "pages", "aria-label": t("batches") }, newer, older));

  function turn(wanted) {
    cursors = wanted;
    load();
  }

  async function load() {
    [last, waits] = [Date.now(), false];
    let found = [];
    try {
      let cursor = cursors.at(-1);
      do {
        const answer = await get(`/v1/batches?limit=${A_PAGE}${cursor && `&cursor=${encodeURIComponent(cursor)}`}`);
        found.push(...answer.batches);
        next = cursor = answer.next;
      } while (next && !found.length);
      await still();
    } catch (problem) {
      if (!gone) page.fail(problem);
      return;
    }
    if (gone) return;
    const here = new Set(found.map((one) => one.batch_id));
    for (const id of [...rows.keys()]) if (!here.has(id)) rows.delete(id);
    for (const one of found) {
      if (!rows.has(one.batch_id)) rows.set(one.batch_id, batchRow(page, one));
      rows.get(one.batch_id).update(one);
    }
    arrange(list, found.map((one) => rows.get(one.batch_id).node));
    show(empty, !found.length);
    show(newer, cursors.length > 1);
    show(older, Boolean(next));
  }

  function change(changes) {
    if (waits || !changes.some(isStep)) return;
    waits = true;
    setTimeout(() => !gone && load(), Math.max(200, last + AGAIN_MS - Date.now()));
  }

  load();
  return { node, reload: load, change, end: () => (gone = true) };
}

function batchRow(page, batch) {
  let known = batch;
  const name = batch.batch_id;
  const meta = el("p", { class: "meta" });
  const done = el("p", { class: "line" });
  const parts = PARTS.map((part) => el("span", { class: `part ${part}` }));
  const bar = el("div", { class: "stack", role: "img" }, ...parts);
  const cancel = button(t("cancelBatch"), () => page.cancelBatch(known), { kind: "quiet", label: `${t("cancelBatch")}: ${name}` });
  const node = el("li", { class: "row batch", "data-batch": name },
    el("div", { class: "what" }, el("p", { class: "name", text: name }), meta),
    el("div", { class: "where" }, done, bar),
    el("div", { class: "acts" },
      button(t("batchJobs"), () => page.go("jobs", { batch: name }), { label: `${t("batchJobs")}: ${name}` }), cancel));

  function update(newer) {
    known = newer;
    say(meta, ago(newer.submitted_at));
    say(done, t("ofTotal", { done: number(newer.total - newer.unended), total: number(newer.total) }));
    bar.setAttribute("aria-label", t("batchOutcome", newer));
    bar.title = t("batchOutcome", newer);
    parts.forEach((part, at) => part.style.setProperty("--share", newer[PARTS[at]] / Math.max(1, newer.total)));
    show(cancel, page.may("submit") && newer.unended > 0);
  }
  return { node, update };
}
