// The queue at a glance: how many jobs are where, and who waits longest, by resolution and priority.

import { arrange, el, say, show } from "./dom.js";
import { duration, number, t } from "./text.js";

const FIGURES = [
  ["queued", "waiting", (queue) => queue.queued],
  ["running", "running", (queue) => queue.running],
  ["retrying", "retrying", (queue) => queue.retrying],
  ["completed", "completed", (queue) => queue.totals.completed ?? 0],
  ["failed", "failed", (queue) => queue.totals.failed ?? 0],
  ["dead", "inDeadLetter", (queue) => queue.dead],
];
const CLASSES = ["priority", "pending"];

export function overview() {
  const figures = FIGURES.map(([name, text, value]) => {
    const shown = el("dd", { text: "–" });
    const href = name === "dead" ? "#dead" : `#jobs?state=${name}`;
    const node = el("div", { class: `figure ${name}` }, el("dt", {}, el("a", { href, text: t(text) })), shown);
    return { node, update: (queue) => (say(shown, number(value(queue))), node.classList.toggle("none", !value(queue))) };
  });
  const body = el("tbody");
  const heads = [t("tier"), t("priorityClass"), t("normalClass"), t("oldest")];
  const table = el("table", { class: "lanes" }, el("caption", { class: "unseen", text: t("waiting") }),
    el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col", text })))), body);
  const nobody = el("p", { class: "quiet", text: t("nobodyWaits") });
  const alerts = el("ul", { class: "alerts", "aria-label": t("alerts") });
  const node = el("section", { class: "overview", "aria-labelledby": "overview-title" },
    el("h2", { id: "overview-title", class: "unseen", text: t("queue") }),
    el("dl", { class: "figures" }, ...figures.map((one) => one.node)),
    el("div", { class: "waiting" }, table, nobody), alerts);

  function update(queue) {
    figures.forEach((one) => one.update(queue));
    const lanes = [...new Set(CLASSES.flatMap((name) => Object.keys(queue.waiting[name] ?? {})))]
      .filter((lane) => CLASSES.some((name) => queue.waiting[name]?.[lane]))
      .sort((a, b) => parseInt(a, 10) - parseInt(b, 10) || (a < b ? -1 : 1));
    arrange(body, lanes.map((lane) => row(queue, lane)));
    show(table, lanes.length > 0);
    show(nobody, lanes.length === 0);
    arrange(alerts, queue.alerts.map((text) => el("li", { text })));
    show(alerts, queue.alerts.length > 0);
  }
  return { node, update };
}

function row(queue, lane) {
  const times = CLASSES.map((name) => queue.oldest[name]?.[lane]).filter(Boolean).sort();
  const waits = times.length ? duration((Date.now() - Date.parse(times[0])) / 1000) : "–";
  const [tier, engine] = lane.split(/-(.*)/);
  return el("tr", {}, el("th", { scope: "row", text: engine ? `${tier} · ${engine}` : tier }),
    ...CLASSES.map((name) => el("td", { text: number(queue.waiting[name]?.[lane] ?? 0) })), el("td", { text: waits }));
}
