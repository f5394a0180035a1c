// One job as a line: picture, name, where it is, what can be done. It changes in place.

import { button, el, say, show } from "./dom.js";
import { ago, duration, has, stageText, t } from "./text.js";

export const ENDED = new Set(["completed", "failed", "cancelled"]);
const GOES_ON = new Set(["queued", "running", "retrying"]);
export const nameOf = (task) => task.name || task.task_id;

export function stateOf(task) {
  return task.cancelling && task.state === "running" ? "cancelling" : task.state;
}

/** What an event says of a job, written into it. */
export function apply(task, change) {
  if (change.cause === "retried by hand") Object.assign(task, { percent: 0, error: "", error_kind: "", ended_at: null });
  Object.assign(task, change);
  if (change.state === "completed") task.percent = 100;
  if (change.state !== "running") Object.assign(task, { seconds_left: null, cancelling: false });
  if (GOES_ON.has(change.state) && change.state !== "running") task.stage = "";
  return task;
}

/** Whether a change is more than progress within a start. */
export const isStep = (change) => change.state !== "running" || change.stage === undefined;

/** page: {may(scope), open(task, play), cancel(task), retry(task), drop(task), pictures}. isDead: in the dead letter. */
export function taskRow(page, task, { isDead = false } = {}) {
  const image = el("img", { alt: t("picture", { name: nameOf(task) }), width: 56, height: 56, hidden: true });
  const name = button(nameOf(task), () => page.open(row.task), { kind: "name" });
  const meta = el("p", { class: "meta" });
  const state = el("span", { class: "state" });
  const stage = el("span", { class: "stage" });
  const bar = el("progress", { max: 100, "aria-label": t("progressOf", { name: nameOf(task) }) });
  const percent = el("span", { class: "percent" });
  const error = el("p", { class: "error" });
  const act = (text, call, kind) => button(t(text), () => call(row.task), { kind, label: `${t(text)}: ${nameOf(task)}` });
  const play = act("play", (one) => page.open(one, true), "");
  const cancel = act("cancel", page.cancel, "quiet");
  const retry = act("retry", page.retry, "quiet");
  const drop = act("drop", page.drop, "quiet");
  const node = el("li", { class: "row", "data-task": task.task_id },
    el("span", { class: "picture" }, image),
    el("div", { class: "what" }, name, meta, error),
    el("div", { class: "where" }, el("p", { class: "line" }, state, stage, percent), bar),
    el("div", { class: "acts" }, play, retry, cancel, drop));
  page.pictures.of(image, task.task_id);

  function update(newer) {
    row.task = newer;
    const seen = stateOf(newer);
    node.className = `row ${seen}`;
    state.className = `state ${seen}`;
    say(state, t(`state.${seen}`));
    const left = newer.seconds_left > 0 ? t("left", { time: duration(newer.seconds_left) }) : "";
    const runs = newer.state === "running";
    say(stage, runs ? stageText(newer.stage) : "");
    show(bar, runs || (newer.state === "queued" && newer.percent > 0));
    bar.value = newer.percent;
    say(percent, runs ? [`${Math.round(newer.percent)} %`, left].filter(Boolean).join(" · ") : "");
    say(meta, described(newer));
    show(error, newer.state === "failed" && Boolean(newer.error));
    say(error, newer.error);
    show(play, newer.state === "completed");
    show(cancel, page.may("submit") && !ENDED.has(newer.state) && !newer.cancelling);
    show(retry, page.may("submit") && (newer.state === "failed" || newer.state === "cancelled"));
    show(drop, isDead && page.may("submit"));
  }
  const row = { node, task, update };
  update(task);
  return row;
}

function described(task) {
  const parts = [ago(task.ended_at ?? task.submitted_at)];
  const size = task.config?.resolution ?? task.result?.resolution;
  if (size) parts.push(`${size} px`);
  if (task.priority === "priority") parts.push(t("priorityClass"));
  if (task.batch) parts.push(task.batch);
  if (task.attempt > 1) parts.push(t("attempt", { n: task.attempt }));
  if (task.state === "failed" && has(`kind.${task.error_kind}`)) parts.push(t(`kind.${task.error_kind}`));
  if (task.result?.warnings?.length) parts.push(`${t("warnings")}: ${task.result.warnings.length}`);
  return parts.join(" · ");
}
