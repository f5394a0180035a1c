// The tab as a whole: the gateway's page (../panel), as much of it as has room beside a canvas, and what only ComfyUI has.

import { Problem, ask, get, setBase, taskPath } from "../panel/api.js";
import { button, el, say, show } from "../panel/dom.js";
import { jobs } from "../panel/jobs.js";
import { Live } from "../panel/live.js";
import { Pictures } from "../panel/pictures.js";
import { droppedFiles, submitDialog } from "../panel/submit.js";
import { taskDialog } from "../panel/task_dialog.js";
import { nameOf } from "../panel/task_row.js";
import { lang, number, speak, t } from "../panel/text.js";
import { onCanvas } from "./canvas.js";

const NOTICE_MS = 8000;
const HIDDEN_MS = 60_000;
const AGAIN_MS = 3000;
const LOST_FOR_MS = 1000; // a line that comes back at once is no news

/** comfy: {app, api, language}. Answers what ends it. */
export function openTab(host, comfy) {
  speak(comfy.language);
  const base = comfy.api.apiURL("/sonic/queue");
  setBase(base);
  const root = el("section", { class: "sonic-queue", lang: lang(), "aria-label": t("tabTitle") });
  const style = el("link", { rel: "stylesheet", href: `${base}/page/sidebar/sidebar.css` });
  host.replaceChildren(style, root);
  const keys = (event) => event.ctrlKey || event.metaKey || event.stopPropagation(); // no Delete for the canvas behind
  root.addEventListener("keydown", keys);
  let [end, timer, gone] = [() => {}, 0, false];

  async function begin() {
    const state = await get("/state").catch((problem) => problem);
    if (gone) return;
    if (state instanceof Error) {
      root.replaceChildren(head(), el("p", { class: "trouble", role: "alert", text: t("tabLost") }));
      timer = setTimeout(begin, AGAIN_MS);
    } else if (state.on) end = queue(root, comfy);
    else root.replaceChildren(head(), el("p", { class: "off", role: "status", text: state.why ? t("tabWrong", { why: state.why }) : t("tabOff") }));
  }

  begin();
  return () => {
    gone = true;
    clearTimeout(timer);
    end();
    host.replaceChildren();
  };
}

const head = (...beside) => el("header", { class: "top" }, el("h2", { text: t("tabTitle") }), ...beside);

function queue(root, comfy) {
  const pictures = new Pictures();
  let [view, submitting, opened, known, state, lostTimer, hiddenTimer, resting] = [null, null, null, null, "connecting", 0, 0, false];

  const dot = el("span", { class: "dot", "aria-hidden": "true" });
  const connection = el("span", { text: t("connecting") });
  const counts = el("p", { class: "counts quiet" });
  const trouble = el("p", { class: "trouble", role: "alert", hidden: true });
  const notices = el("div", { class: "notices", role: "status" });
  const alarms = el("div", { class: "notices", role: "alert" });
  const content = el("div", { class: "content" });
  const graph = button(t("tabGraph"), submitGraph, { kind: "primary" });
  const files = button(t("newVideos"), () => openSubmit());
  const veil = el("p", { class: "veil", hidden: true, "aria-hidden": "true", text: t("dropHere") });
  root.replaceChildren(head(el("p", { class: "connection", role: "status" }, dot, connection)), counts,
    el("div", { class: "ways" }, graph, files), trouble, notices, alarms, content, veil);

  const page = {
    host: root,
    empty: "tabEmpty",
    pictures,
    may: (scope) => scope === "submit",
    go: (name, filters = {}, { quietly = false } = {}) => quietly || openView(filters),
    fail: (problem) => notice(sentence(problem), "alert"),
    sentence,
    open: async (task, play = false) => (opened = await taskDialog(page, { ...task }, play)),
    cancel: (task) => act(task, () => ask("DELETE", taskPath(task.task_id)), (said) => (said.status === "cancelling" ? "isCancelling" : "wasCancelled")),
    retry: (task) => act(task, () => ask("POST", `${taskPath(task.task_id)}/retry`), () => "startedAgain"),
    drop: () => {},
    beside: (task) => [button(t("tabCanvas"), () => toCanvas(task))],
  };

  function sentence(problem) {
    if (!(problem instanceof Problem)) {
      console.error(problem);
      return t("somethingWrong", { why: String(problem?.message ?? problem) });
    }
    if (problem.kind === "unreachable") return t("tabLost");
    if (problem.kind === "unavailable") return t("tabAway");
    return problem.message || t("somethingWrong", { why: problem.status });
  }

  function notice(text, kind = "status") {
    const region = kind === "alert" ? alarms : notices;
    for (const old of [...region.children]) if (old.dataset.text === text) old.remove();
    const node = el("div", { class: `notice ${kind}`, "data-text": text }, el("p", { text }),
      button("×", () => node.remove(), { kind: "quiet close", label: t("dismiss") }));
    region.append(node);
    if (kind !== "alert") setTimeout(() => node.remove(), NOTICE_MS);
  }

  async function act(task, request, said) {
    try {
      notice(t(said(await request()), { name: nameOf(task) }));
    } catch (problem) {
      page.fail(problem);
    }
    view?.reload();
  }

  async function submitGraph() {
    graph.disabled = true;
    try {
      const { output } = await comfy.app.graphToPrompt();
      const said = await ask("POST", "/v1/graph", { prompt: output });
      notice(t("tabGraphSent"));
      for (const warning of said.warnings) notice(warning);
    } catch (problem) {
      page.fail(problem);
    }
    graph.disabled = false;
    view?.reload();
  }

  async function toCanvas(task) {
    try {
      const { file } = await ask("POST", `${taskPath(task.task_id)}/input`);
      onCanvas(comfy.app, file);
      root.querySelector("dialog.task[open]")?.close();
      notice(t("tabOnCanvas", { name: file }));
    } catch (problem) {
      page.fail(problem);
    }
  }

  function openSubmit(more = []) {
    if (submitting?.isOpen()) submitting.add(more);
    else if (!root.querySelector("dialog[open]")) submitting = submitDialog(page, more);
  }

  function openView(filters = {}) {
    view?.end();
    view = jobs(page, filters);
    content.replaceChildren(view.node);
  }

  const live = new Live((kind, data) => {
    known = { ...known, ...data };
    if (kind === "snapshot") {
      if (view) view.reload();
      else openView();
    }
    if (kind === "changes") {
      view?.change(data.tasks);
      const one = opened?.isOpen() && data.tasks.find((task) => task.task_id === opened.taskId);
      if (one) opened.change(one);
    } else showCounts();
  }, (now, problem) => {
    if (now === "lost" && state === "live" && problem?.kind !== "unavailable") {
      lostTimer ||= setTimeout(() => become("lost"), LOST_FOR_MS);
      return;
    }
    clearTimeout(lostTimer);
    lostTimer = 0;
    become(problem?.kind === "unavailable" ? "away" : now);
  });

  function become(now) {
    state = now;
    dot.className = `dot ${now}`;
    say(connection, t(now === "live" ? "live" : now === "away" || now === "lost" ? "lost" : "connecting"));
    show(trouble, now === "lost" || now === "away");
    say(trouble, now === "lost" ? t("tabLost") : now === "away" ? t("tabAway") : "");
  }

  function showCounts() {
    if (!known?.queue || !known.instances) return;
    const { running, queued: waiting, retrying } = known.queue;
    const values = { servers: known.instances.length, running, waiting: waiting + retrying };
    say(counts, t(known.instances.length ? "tabCounts" : "tabNobody", Object.fromEntries(Object.entries(values).map(([name, value]) => [name, number(value)]))));
  }

  // Files from outside: without this the browser would open them, or ComfyUI take them for a workflow.
  let over = 0;
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  const hear = (kind, listener) => root.addEventListener(kind, (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    event.stopPropagation();
    listener(event);
  });
  hear("dragenter", () => show(veil, (over += 1) > 0 && !root.querySelector("dialog[open]")));
  hear("dragleave", () => show(veil, (over = Math.max(0, over - 1)) > 0));
  hear("dragover", () => {});
  hear("drop", async (event) => {
    over = 0;
    show(veil, false);
    openSubmit(await droppedFiles(event.dataTransfer));
  });

  // A browser opens six lines to a server, so a tab that nobody looks at gives its own back.
  function seen() {
    clearTimeout(hiddenTimer);
    if (document.hidden) hiddenTimer = setTimeout(() => ((resting = true), live.stop()), HIDDEN_MS);
    else if (resting) {
      resting = false;
      live.start();
    }
  }
  document.addEventListener("visibilitychange", seen);
  live.start();

  return () => {
    document.removeEventListener("visibilitychange", seen);
    clearTimeout(hiddenTimer);
    clearTimeout(lostTimer);
    live.stop();
    view?.end();
    root.querySelector("dialog[open]")?.close();
    pictures.forget();
  };
}
