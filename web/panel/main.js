// The page as a whole: what is shown, and what the events change in it.

import { Problem, ask, batchPath, forgetKey, get, hasKey, taskPath } from "./api.js";
import { batches } from "./batches.js";
import { dead } from "./dead.js";
import { button, el, say, show } from "./dom.js";
import { instances } from "./instances.js";
import { jobs } from "./jobs.js";
import { Live } from "./live.js";
import { login } from "./login.js";
import { overview } from "./overview.js";
import { Pictures } from "./pictures.js";
import { droppedFiles, submitDialog } from "./submit.js";
import { taskDialog } from "./task_dialog.js";
import { nameOf } from "./task_row.js";
import { lang, number, problemText, switchLanguage, t } from "./text.js";

const VIEWS = { jobs, instances, batches, dead };
const NOTICE_MS = 8000;
const SAID_EVERY_MS = 10_000;
const HIDDEN_MS = 60_000;
const TICK_MS = 5000;
const LOST_FOR_MS = 1000; // a line that comes back at once is no news

const known = { state: "connecting", queue: null, instances: null, caller: null };
const pictures = new Pictures();
const live = new Live(tell, connection);
let shell = null;
let view = null;
let panel = null; // the overview
let submitting = null;
let opened = null; // a job's dialog
let lostTimer = 0;

const page = {
  pictures,
  may: (scope) => Boolean(known.caller?.scopes.some((one) => one === scope || one === "admin")),
  go,
  fail,
  sentence,
  open: openTask,
  cancel: (task) => act(task, () => ask("DELETE", taskPath(task.task_id)), (said) => (said.status === "cancelling" ? "isCancelling" : "wasCancelled")),
  retry: (task) => act(task, () => ask("POST", `${taskPath(task.task_id)}/retry`), () => "startedAgain"),
  drop: (task) => act(task, () => ask("DELETE", `/v1/dead/${encodeURIComponent(task.task_id)}`), () => "dropped"),
  retryAll,
  cancelBatch,
  drain,
};

function sentence(problem) {
  if (!(problem instanceof Problem)) {
    console.error(problem);
    return t("somethingWrong", { why: String(problem?.message ?? problem) });
  }
  if (problem.kind === "unreachable") return t("unreachable");
  if (problem.kind === "too-many-requests") return t("tooMany", { n: problem.waitS });
  return problemText(problem.kind, problem.message) || t("somethingWrong", { why: problem.status });
}

function fail(problem) {
  if (problem.status === 401 && known.caller) {
    live.stop();
    become("locked", problem);
  } else notice(sentence(problem), "alert");
}

// --- what is done

async function act(task, request, said) {
  try {
    notice(t(said(await request()), { name: nameOf(task) }));
  } catch (problem) {
    fail(problem);
  }
  view?.reload();
}

async function retryAll(tasks) {
  let count = 0;
  for (const task of tasks) {
    try {
      await ask("POST", `${taskPath(task.task_id)}/retry`);
      count += 1;
    } catch (problem) {
      fail(problem);
      break;
    }
  }
  if (count) notice(t("retriedAll", { n: count }));
  view?.reload();
}

async function cancelBatch(batch) {
  const question = t("cancelBatchSure", { n: batch.unended, name: batch.batch_id });
  if (!(await confirmed(question, t("cancelBatchWhat"), t("cancelBatch"), t("keepBatch")))) return;
  try {
    notice(t("batchCancelled", await ask("DELETE", batchPath(batch.batch_id))));
  } catch (problem) {
    fail(problem);
  }
  view?.reload();
}

async function drain(name, undo) {
  try {
    await ask(undo ? "DELETE" : "POST", `/v1/instances/${encodeURIComponent(name)}/drain`);
    notice(t(undo ? "isUndrained" : "isDraining", { name }));
    tell("instances", await get("/v1/instances"));
  } catch (problem) {
    fail(problem);
  }
}

function confirmed(question, what, yes, no) {
  return new Promise((resolve) => {
    let answer = false;
    const node = el("dialog", { class: "dialog small", role: "alertdialog", "aria-labelledby": "sure-title", "aria-describedby": "sure-what" },
      el("h2", { id: "sure-title", text: question }), el("p", { id: "sure-what", text: what }),
      el("div", { class: "acts" }, button(no, () => node.close(), { kind: "quiet" }),
        button(yes, () => ((answer = true), node.close()), { kind: "danger" })));
    node.addEventListener("close", () => (node.remove(), resolve(answer)));
    document.body.append(node);
    node.showModal();
  });
}

async function openTask(task, play = false) {
  opened = await taskDialog(page, { ...task }, play);
}

function openSubmit(files = []) {
  if (submitting?.isOpen()) submitting.add(files);
  else if (!document.querySelector("dialog[open]")) submitting = submitDialog(page, files);
}

// --- where we are: #jobs?state=failed

function place() {
  const [name, query] = location.hash.slice(1).split("?");
  return [name in VIEWS ? name : "jobs", Object.fromEntries(new URLSearchParams(query))];
}

function go(name, filters = {}, { quietly = false } = {}) {
  const query = new URLSearchParams(Object.entries(filters).filter(([, value]) => value));
  const hash = `#${name}${[...query].length ? `?${query}` : ""}`;
  if (quietly) history.replaceState(null, "", hash);
  else if (location.hash === hash) openView();
  else location.hash = hash;
}

function openView() {
  if (!shell || !known.caller) return;
  const [name, filters] = place();
  view?.end();
  view = VIEWS[name](page, filters);
  shell.content.replaceChildren(view.node);
  if (known.instances) view.update?.(known.instances);
  for (const [one, link] of Object.entries(shell.links)) link.setAttribute("aria-current", one === name ? "page" : "false");
}

// --- the frame around it

function build() {
  document.documentElement.lang = lang();
  document.title = t("title");
  const links = Object.fromEntries(Object.keys(VIEWS).map((name) => [name, el("a", { href: `#${name}`, text: t(name) })]));
  const badge = el("span", { class: "badge", hidden: true });
  links.dead.append(badge);
  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  const state = el("span");
  const other = button(t("otherLanguage"), () => (switchLanguage(), build()), { kind: "quiet", label: t("otherLanguageLabel"), lang: lang() === "en" ? "zh-CN" : "en" });
  const out = button(t("loginOut"), () => (forgetKey(), location.reload()), { kind: "quiet", hidden: true });
  const add = button(t("newVideos"), () => openSubmit(), { kind: "primary", hidden: true });
  const trouble = el("p", { class: "trouble", role: "alert", hidden: true });
  const content = el("div", { class: "content" });
  const notices = el("div", { class: "notices", role: "status" });
  const alarms = el("div", { class: "notices", role: "alert" });
  const aloud = el("p", { class: "unseen", role: "status" });
  panel = overview();
  panel.node.hidden = true;
  const main = el("main", { id: "main", tabindex: "-1" }, trouble, panel.node, content);
  document.body.replaceChildren(
    el("a", { class: "skip", href: "#main", text: t("skip"), on: { click: (event) => (event.preventDefault(), main.focus()) } }),
    el("header", { class: "bar" },
      el("h1", {}, el("img", { src: "/panel/icon.svg", alt: "", width: 24, height: 24 }), t("title")),
      el("nav", { "aria-label": t("views") }, ...Object.values(links)),
      el("div", { class: "tools" }, el("p", { class: "connection", role: "status" }, dot, state), out, other, add)),
    main, el("div", { class: "corner" }, notices, alarms), aloud,
    el("div", { class: "veil", hidden: true, "aria-hidden": "true" }, el("p", { text: t("dropHere") })));
  shell = { links, badge, dot, state, out, add, trouble, content, notices, alarms, aloud, main };
  view?.end();
  view = null;
  showConnection();
  if (known.queue) showQueue();
  if (known.caller) openView();
  else if (known.state === "locked" || known.state === "refused") showGate();
}

function notice(text, kind = "status") {
  const region = kind === "alert" ? shell.alarms : shell.notices;
  for (const old of region.children) if (old.dataset.text === text) old.remove();
  const node = el("div", { class: `notice ${kind}`, "data-text": text }, el("p", { text }),
    button("×", () => node.remove(), { kind: "quiet close", label: t("dismiss") }));
  region.append(node);
  if (kind !== "alert") setTimeout(() => node.remove(), NOTICE_MS);
}

// --- what the gateway says

function tell(kind, data) {
  if (data.caller) known.caller = data.caller;
  if (data.queue) known.queue = data.queue;
  if (data.instances) known.instances = data.instances;
  if (kind === "snapshot") {
    if (view) view.reload();
    else openView();
    showConnection();
  }
  if (data.queue) showQueue();
  if (data.instances) view?.update?.(data.instances);
  if (kind === "changes") {
    view?.change(data.tasks);
    if (opened?.isOpen()) {
      const one = data.tasks.find((task) => task.task_id === opened.taskId);
      if (one) opened.change(one);
    }
  }
}

let saidAt = 0;
function showQueue() {
  panel.update(known.queue);
  show(panel.node, true);
  show(shell.badge, known.queue.dead > 0);
  say(shell.badge, String(known.queue.dead));
  if (Date.now() - saidAt < SAID_EVERY_MS) return;
  saidAt = Date.now();
  const { running, queued: waiting, totals } = known.queue;
  const counts = { running, waiting, completed: totals.completed ?? 0, failed: totals.failed ?? 0 };
  say(shell.aloud, t("queueSummary", Object.fromEntries(Object.entries(counts).map(([name, count]) => [name, number(count)]))));
}

function connection(state, problem) {
  if (state === "lost" && known.state === "live") {
    lostTimer ||= setTimeout(() => become("lost"), LOST_FOR_MS);
    return;
  }
  clearTimeout(lostTimer);
  lostTimer = 0;
  if (state === known.state) return;
  become(state, problem);
}

function become(state, problem) {
  known.state = state;
  known.problem = problem;
  if (state === "locked" || state === "refused") {
    known.wasWrong = hasKey();
    if (state === "locked") forgetKey();
    Object.assign(known, { caller: null, queue: null, instances: null });
    pictures.forget();
    build();
  } else showConnection();
}

function showConnection() {
  const { state } = known;
  shell.dot.className = `dot ${state}`;
  shell.dot.parentElement.className = `connection ${state}`;
  const isIn = Boolean(known.caller);
  say(shell.state, t(state in { live: 1, lost: 1, away: 1 } ? state : "connecting"));
  show(shell.trouble, state === "lost" || state === "away");
  say(shell.trouble, state === "lost" ? t("lostLong") : state === "away" ? t("awayLong") : "");
  show(shell.out, hasKey());
  shell.out.title = known.caller?.name ? t("keyOf", { name: known.caller.name }) : "";
  show(shell.add, isIn && page.may("submit"));
}

function showGate() {
  if (known.state === "refused") {
    const gate = el("section", { class: "gate" }, el("h2", { text: t("refusedTitle") }), el("p", { text: sentence(known.problem) }));
    shell.content.replaceChildren(gate);
    return;
  }
  const gate = login(known.wasWrong ? t("loginWrong") : "", () => {
    become("connecting");
    live.start();
  });
  shell.content.replaceChildren(gate.node);
  gate.focus();
}

// --- files from outside

let over = 0;
const carriesFiles = (event) => known.caller && page.may("submit") && event.dataTransfer?.types.includes("Files");
const veil = (visible) => show(document.querySelector(".veil"), visible);
addEventListener("dragenter", (event) => {
  if (!carriesFiles(event)) return;
  over += 1;
  veil(true);
});
addEventListener("dragleave", (event) => {
  if (carriesFiles(event) && (over = Math.max(0, over - 1)) === 0) veil(false);
});
addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
addEventListener("drop", async (event) => {
  if (!event.dataTransfer?.types.includes("Files")) return;
  event.preventDefault(); // never let the browser leave the page for a file
  over = 0;
  veil(false);
  if (carriesFiles(event)) openSubmit(await droppedFiles(event.dataTransfer));
});
addEventListener("hashchange", () => {
  document.querySelector("dialog.task[open]")?.close();
  openView();
});

// A browser opens six lines to a server, so a page that nobody looks at gives its own back.
let hiddenTimer = 0;
let isResting = false;
function rest() {
  isResting = true;
  live.stop();
}
function wake() {
  clearTimeout(hiddenTimer);
  if (isResting && known.state !== "locked" && known.state !== "refused") live.start();
  isResting = false;
}
document.addEventListener("visibilitychange", () => {
  if (document.hidden) hiddenTimer = setTimeout(rest, HIDDEN_MS);
  else wake();
});
addEventListener("pagehide", rest);
addEventListener("pageshow", wake);

setInterval(() => known.queue && !document.hidden && panel.update(known.queue), TICK_MS); // how long the oldest waits

build();
live.start();
