// Everything about one job, and its video.

import { addressOf, get, hasKey, inParts, problemOf, raw, taskPath } from "./api.js";
import { button, el, say, show } from "./dom.js";
import { apply, nameOf, stateOf } from "./task_row.js";
import { bytes, duration, has, moment, number, stageText, t } from "./text.js";

/** page: {may, fail, sentence(problem), cancel, retry}; host: what holds dialogs; beside(task): buttons below a video. */
export async function taskDialog(page, task, play) {
  const abort = new AbortController();
  let address = "";
  const title = el("h2", { id: "task-title", text: nameOf(task) });
  const state = el("span", { class: "state" });
  const stage = el("span", { class: "stage" });
  const bar = el("progress", { max: 100, "aria-label": t("progressOf", { name: nameOf(task) }) });
  const stagePlace = el("div", { class: "player" });
  const details = el("div", { class: "details" });
  const node = el("dialog", { class: "dialog task", "aria-labelledby": "task-title" },
    el("div", { class: "head" }, title, button("×", () => node.close(), { kind: "quiet close", label: t("close") })),
    el("p", { class: "line" }, state, stage), bar, stagePlace, details);
  node.addEventListener("close", () => {
    abort.abort();
    if (address) URL.revokeObjectURL(address);
    node.remove();
  });
  (page.host ?? document.body).append(node);
  node.showModal();

  function draw() {
    const seen = stateOf(task);
    state.className = `state ${seen}`;
    say(state, t(`state.${seen}`));
    const runs = task.state === "running";
    const left = task.seconds_left > 0 ? t("left", { time: duration(task.seconds_left) }) : "";
    say(stage, runs ? [stageText(task.stage), `${Math.round(task.percent)} %`, left].filter(Boolean).join(" · ") : "");
    show(bar, runs);
    bar.value = task.percent;
  }

  async function look() {
    try {
      task = await get(taskPath(task.task_id));
    } catch (problem) {
      page.fail(problem);
      return;
    }
    if (abort.signal.aborted) return;
    draw();
    details.replaceChildren(...about(task));
    if (task.state === "completed" && !stagePlace.hasChildNodes()) player();
  }

  async function player() {
    const path = `${taskPath(task.task_id)}/result`;
    const video = el("video", { controls: true, preload: "metadata", playsinline: true, "aria-label": nameOf(task) });
    const wrong = (why) => stagePlace.replaceChildren(el("p", { class: "error", role: "alert", text: t("noVideo", { why }) }));
    video.addEventListener("error", () => wrong(t("noCodec")), { once: true });
    const found = await get(`${taskPath(task.task_id)}/link`).catch((problem) => problem);
    if (abort.signal.aborted) return;
    if (found instanceof Error) return wrong(page.sentence(found));
    if (found.elsewhere) { // no other server is asked for anything by this page; a person may
      const link = el("a", { class: "button", href: found.url, target: "_blank", rel: "noreferrer", text: t("openElsewhere") });
      return stagePlace.replaceChildren(el("p", { text: t("elsewhere") }), link);
    }
    const begin = await raw(path, { headers: { Range: "bytes=0-0" } }).catch((problem) => problem);
    if (abort.signal.aborted) return;
    if (begin instanceof Error || !begin.ok) return wrong(page.sentence(begin.ok === false ? await problemOf(begin) : begin));
    const kind = begin.headers.get("Content-Type");
    const isVideo = kind.startsWith("video/"); // a graph of somebody's own may have made something else
    const suffix = kind === "application/zip" ? "zip" : "mp4";
    const save = el("a", { class: "button", download: `${nameOf(task)}.${suffix}`, text: t(isVideo ? "download" : "saveFile") });
    if (hasKey()) {
      const loaded = el("progress", { max: 1, value: 0, "aria-label": t("loadingVideo") });
      stagePlace.replaceChildren(el("p", { class: "quiet", text: t("loadingVideo") }), loaded);
      try {
        const whole = await inParts(path, kind, { progress: (part) => (loaded.value = part), signal: abort.signal });
        address = URL.createObjectURL(whole);
      } catch (problem) {
        if (!abort.signal.aborted) wrong(page.sentence(problem));
        return;
      }
      if (abort.signal.aborted) return;
    }
    if (isVideo) video.src = address || addressOf(path);
    save.href = address || addressOf(path);
    const beside = (isVideo && page.beside?.(task)) || [];
    stagePlace.replaceChildren(...(isVideo ? [video, el("div", { class: "acts" }, save, ...beside)] : [save]));
    if (play && isVideo) video.play().catch(() => {}); // a browser may want a click first
  }

  draw();
  await look();
  return {
    taskId: task.task_id,
    change(one) {
      const before = task.state;
      apply(task, one);
      draw();
      if (task.state !== before) look();
    },
    isOpen: () => node.open,
  };
}

function about(task) {
  const result = task.result ?? {};
  const warnings = [...(result.warnings ?? []), ...(result.degraded ? [t("degraded")] : [])];
  const parts = [];
  if (task.error) {
    const kind = has(`kind.${task.error_kind}`) ? t(`kind.${task.error_kind}`) : t("error");
    parts.push(part(kind, el("p", { class: "error", text: task.error })));
  }
  if (warnings.length) parts.push(part(t("warnings"), el("ul", { class: "alerts" }, ...warnings.map((text) => el("li", { text })))));
  if (result.quality) parts.push(part(t("quality"), quality(result.quality)));
  if (result.report) parts.push(part(t("report"), facts(plain(result.report))));
  parts.push(part(t("asked"), facts([
    [t("id"), task.task_id], [t("template"), task.workflow], [t("priority"), t(`priority.${task.priority}`)],
    ...(task.batch ? [[t("batch"), task.batch]] : []), ...(task.consent_id ? [[t("consent"), task.consent_id]] : []),
    ...Object.entries(task.labels ?? {}), ...Object.entries(task.config).map(([name, value]) => [name, String(value)]),
  ])));
  parts.push(part(t("times"), facts([
    [t("submittedAt"), moment(task.submitted_at)],
    ...(task.started_at ? [[t("startedAt"), moment(task.started_at)]] : []),
    ...(task.ended_at ? [[t("endedAt"), moment(task.ended_at)]] : []), [t("attempts"), number(task.attempt)],
    ...(result.seconds ? [[t("seconds"), duration(result.seconds)]] : []),
    ...(result.bytes ? [[t("size"), bytes(result.bytes)]] : []),
    ...(result.resolution ? [[t("resolution"), number(result.resolution)]] : []),
  ])));
  return parts;
}

function quality(found) {
  const short = found.falls_short ?? [];
  const said = short.length ? el("ul", { class: "alerts" }, ...short.map((text) => el("li", { text: String(text) })))
    : el("p", { class: "good", text: t("allGood") });
  return el("div", {}, said, facts(plain({ ...found, falls_short: undefined })));
}

/** Rows out of any object: what is known gets its name, lists are joined, objects within are gone into. */
function plain(object, before = "") {
  return Object.entries(object).flatMap(([key, value]) => {
    if (value === null || value === undefined || value === "" || value.length === 0) return [];
    if (typeof value === "object" && !Array.isArray(value)) return plain(value, `${before}${key}.`);
    const name = has(`q.${key}`) ? t(`q.${key}`) : `${before}${key}`;
    return [[name, shownValue(key, value)]];
  });
}

function shownValue(key, value) {
  if (typeof value === "boolean") return t(value ? "yes" : "no");
  if (Array.isArray(value)) return value.map(String).join("; ");
  if (typeof value !== "number") return String(value);
  const unit = key.endsWith("_ms") ? " ms" : key.endsWith("_percent") ? " %" : key === "seconds" ? " s" : "";
  return key === "open_in_silence" ? `${number(Math.round(value * 100))} %` : `${number(value)}${unit}`;
}

function part(title, content) {
  return el("section", { class: "part" }, el("h3", { text: title }), content);
}

function facts(rows) {
  return el("dl", { class: "facts" }, ...rows.flatMap(([name, value]) => [el("dt", { text: name }), el("dd", { text: value })]));
}
