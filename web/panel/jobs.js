// The jobs, page by page, with filters. Only one page is ever here, however many jobs there are.

import { get } from "./api.js";
import { arrange, button, el, field, say, select, show, stillness } from "./dom.js";
import { apply, isStep, taskRow } from "./task_row.js";
import { number, t } from "./text.js";

const A_PAGE = 50;
const FURTHEST = 5; // requests for one page: a filter may fit few jobs
const LOOKED_A_REQUEST = 2000;
const AGAIN_MS = 1000;
const TYPED_MS = 300;
const STATES = ["queued", "running", "retrying", "completed", "failed", "cancelled"];

/** page: as for taskRow, with fail(problem), go(view, filters), and empty: what is said without jobs. filters: {state, batch, name}. */
export function jobs(page, filters) {
  const rows = new Map();
  let [cursors, next, tasks, looked] = [[""], null, [], 0];
  let [asked, timer, last, stale, gone] = [0, 0, 0, false, false];

  const list = el("ol", { class: "rows", "aria-label": t("jobs") });
  const still = stillness(list);
  const empty = el("p", { class: "empty" });
  const further = button(t("lookFurther"), () => load({ further: true }));
  const pageOf = el("span", { class: "quiet", "aria-live": "polite" });
  const newer = button(t("newer"), () => turn(-1), { kind: "quiet" });
  const older = button(t("more"), () => turn(1), { kind: "quiet" });
  const name = el("input", { type: "search", value: filters.name ?? "", autocomplete: "off", maxlength: 200, on: { input: typed } });
  const state = select([["", t("anyState")], ...STATES.map((one) => [one, t(`state.${one}`)])], filters.state ?? "",
    (value) => page.go("jobs", { ...filters, state: value }));
  const clear = button(t("clearFilters"), () => page.go("jobs", {}), { kind: "quiet" });
  const batch = filters.batch && el("p", { class: "chip" }, `${t("batch")}: ${filters.batch}`,
    button("×", () => page.go("jobs", { ...filters, batch: "" }), { kind: "quiet", label: t("anyBatch") }));
  const node = el("section", { class: "view", "aria-labelledby": "view-title" },
    el("div", { class: "head" }, el("h2", { id: "view-title", text: t("jobs") }),
      el("form", { class: "filters", role: "search", on: { submit: (event) => event.preventDefault() } },
        field(t("search"), name), field(t("state"), state), batch, clear)),
    list, empty, further,
    el("nav", { class: "pages", "aria-label": t("jobs") }, newer, pageOf, older));
  show(clear, Boolean(filters.name || filters.state || filters.batch));
  [empty, further, newer, older].forEach((one) => show(one, false));

  function typed() {
    clearTimeout(timer);
    timer = setTimeout(() => {
      filters.name = name.value.trim();
      page.go("jobs", filters, { quietly: true });
      cursors = [""];
      show(clear, Boolean(filters.name || filters.state || filters.batch));
      load();
    }, TYPED_MS);
  }

  function turn(by) {
    const from = document.activeElement;
    cursors = by > 0 ? [...cursors, next] : cursors.slice(0, -1);
    load().then(() => [from, document.body].includes(document.activeElement) && list.querySelector("button")?.focus());
  }

  function address(cursor) {
    const query = new URLSearchParams({ limit: A_PAGE });
    for (const [key, value] of Object.entries({ ...filters, cursor })) if (value) query.set(key, value);
    return `/v1/tasks?${query}`;
  }

  async function load({ further: goOn = false } = {}) {
    const mine = (asked += 1);
    [last, stale] = [Date.now(), false];
    const found = goOn ? [...tasks] : [];
    let cursor = goOn ? next : cursors.at(-1);
    try {
      for (let request = 0; request < FURTHEST; request += 1) {
        const answer = await get(address(cursor));
        await still();
        if (mine !== asked || gone) return;
        found.push(...answer.tasks);
        cursor = answer.next;
        looked = (goOn || request ? looked : 0) + LOOKED_A_REQUEST;
        if (!cursor || found.length >= A_PAGE) break;
        if (!found.length) continue;
        tasks = [...found]; // the rest of a long search follows
        draw({ looks: true });
      }
    } catch (problem) {
      if (mine !== asked || gone) return;
      if (problem.kind === "too-many-requests") {
        last = Date.now() + problem.waitS * 1000;
        refreshSoon();
      } else page.fail(problem);
      return;
    }
    [tasks, next] = [found, cursor];
    draw();
  }

  function draw({ looks = false } = {}) {
    const here = new Set(tasks.map((task) => task.task_id));
    for (const id of [...rows.keys()]) if (!here.has(id)) rows.delete(id);
    for (const task of tasks) {
      const row = rows.get(task.task_id);
      if (row) row.update(task);
      else rows.set(task.task_id, taskRow(page, task));
    }
    arrange(list, tasks.map((task) => rows.get(task.task_id).node));
    const filtered = filters.name || filters.state || filters.batch;
    const unsure = !looks && Boolean(next) && tasks.length < A_PAGE;
    show(list, tasks.length > 0);
    show(empty, tasks.length === 0 || unsure);
    say(empty, unsure ? t("lookedAt", { n: number(looked) }) : t(filtered ? "jobsNoMatch" : (page.empty ?? "jobsEmpty")));
    show(further, unsure);
    show(newer, cursors.length > 1);
    show(older, Boolean(next) && !unsure);
    say(pageOf, cursors.length > 1 || next ? t("page", { n: cursors.length }) : "");
  }

  function refreshSoon() {
    if (stale) return;
    stale = true;
    setTimeout(() => stale && !gone && !document.hidden && load(), Math.max(200, last + AGAIN_MS - Date.now()));
  }

  function change(changes) {
    let isNews = false;
    for (const one of changes) {
      const row = rows.get(one.task_id);
      if (row) {
        isNews ||= one.state !== row.task.state;
        row.update(apply(row.task, one));
      } else isNews ||= isStep(one);
    }
    if (isNews && (cursors.length === 1 || filters.batch)) refreshSoon();
  }

  const seen = () => !document.hidden && stale && load();
  document.addEventListener("visibilitychange", seen);
  const ticking = setInterval(() => rows.forEach((row) => row.update(row.task)), 30_000);
  load();
  return {
    node,
    reload: load,
    change,
    end() {
      gone = true;
      clearInterval(ticking);
      document.removeEventListener("visibilitychange", seen);
    },
  };
}
