// Files become jobs: what goes together is said first, also what is left out and why, then they are sent.

import { Problem, get, upload } from "./api.js";
import { arrange, button, el, field, say, select, show } from "./dom.js";
import { ACCEPTED, pair } from "./pairing.js";
import { t } from "./text.js";
import { folderOf, zipNames } from "./zip_names.js";

const AT_ONCE = 2;
const LISTED = 100;
const TEMPLATE = "portrait_speaks";
const MANIFEST = /^manifest\.(csv|jsonl)$/i;

const isZip = (file) => /\.zip$/i.test(file.name);

/** Files that were dropped; of a folder those directly in it. */
export async function droppedFiles(transfer) {
  const entries = [...transfer.items].map((item) => item.webkitGetAsEntry?.()).filter(Boolean);
  if (!entries.some((one) => one.isDirectory)) return [...transfer.files];
  const found = [];
  for (const entry of entries) {
    for (const one of entry.isDirectory ? await children(entry) : [entry]) {
      if (one.isFile) found.push(await new Promise((resolve, reject) => one.file(resolve, reject)));
    }
  }
  return found;
}

async function children(folder) {
  const reader = folder.createReader();
  const found = [];
  for (;;) {
    const some = await new Promise((resolve, reject) => reader.readEntries(resolve, reject));
    if (!some.length) return found;
    found.push(...some);
  }
}

function why(item) {
  const names = item.names?.map((name) => `'${name}'`).join(t("and"));
  return t(`why.${item.why}`, { ...item, names, kind: t(item.kind ?? "") });
}

/** What a ZIP will become. */
async function lookInto(file) {
  const names = await zipNames(file).catch(() => null);
  if (!names) return { file, unread: true, pairs: [], leftOut: [] };
  const { files, folders } = folderOf(names);
  if (files.some((name) => MANIFEST.test(name))) return { file, manifest: true, pairs: [], leftOut: [] };
  const found = pair(files);
  return { file, pairs: found.pairs, leftOut: [...found.leftOut, ...folders.map((name) => ({ name, why: "folder" }))] };
}

/** page: {sentence(problem), go}; host: what holds dialogs. first: files that were dropped. */
export function submitDialog(page, first = []) {
  const files = new Map();
  let [plan, zips, parameters, busy] = [{ pairs: [], leftOut: [] }, [], {}, false];
  let template = TEMPLATE;

  const choose = el("input", { type: "file", class: "unseen", autofocus: true, multiple: true, accept: ACCEPTED, on: { change: () => add([...choose.files]) } });
  const summary = el("p", { class: "summary", role: "status" });
  const pairs = el("ul", { class: "pairs" });
  const left = el("details", { class: "left-out", open: true }, el("summary"), el("ul"));
  const settings = el("fieldset", { class: "settings" }, el("legend", { text: t("settings") }));
  const wrong = el("p", { class: "error", role: "alert", hidden: true });
  const progress = el("progress", { max: 1, value: 0, hidden: true, "aria-labelledby": "submit-title" });
  const submit = button(t("submit"), send, { kind: "primary", disabled: true });
  const clear = button(t("remove"), () => (files.clear(), (zips = []), replan()), { kind: "quiet", hidden: true });
  const body = el("div", { class: "submit" }, el("p", { class: "quiet", text: t("submitWhat") }),
    el("label", { class: "zone" }, el("span", { text: t("choose") }), choose), summary, pairs, left, settings, wrong, progress,
    el("div", { class: "acts" }, clear, submit));
  const node = el("dialog", { class: "dialog", "aria-labelledby": "submit-title" },
    el("div", { class: "head" }, el("h2", { id: "submit-title", text: t("submitTitle") }),
      button("×", () => node.close(), { kind: "quiet close", label: t("close") })), body);
  node.addEventListener("cancel", (event) => busy && event.preventDefault());
  node.addEventListener("close", () => node.remove());
  (page.host ?? document.body).append(node);
  node.showModal();

  async function add(more) {
    choose.value = "";
    for (const file of more) {
      if (isZip(file)) zips = [...zips.filter((one) => one.file.name !== file.name), await lookInto(file)];
      else files.set(file.name, file);
    }
    replan();
  }

  function replan() {
    const empty = [...files.values()].filter((file) => !file.size).map((file) => ({ name: file.name, why: "empty" }));
    plan = pair([...files.values()].filter((file) => file.size).map((file) => file.name));
    const leftOut = [...empty, ...plan.leftOut, ...zips.flatMap((one) => one.leftOut)];
    const count = plan.pairs.length + zips.reduce((sum, one) => sum + one.pairs.length, 0);
    const isUnsure = zips.some((one) => one.unread || one.manifest);
    say(summary, count || !isUnsure ? t(count === 0 ? "willMakeNone" : count === 1 ? "willMakeOne" : "willMake", { n: count }) : "");
    const lines = [...plan.pairs.map((one) => el("li", {}, el("b", { text: one.name }), ` ${one.portrait} + ${one.voice}`)),
      ...zips.map((one) => el("li", { text: t(one.unread ? "zipUnread" : one.manifest ? "zipManifest" : "zipPairs",
        { name: one.file.name, n: one.pairs.length }) }))];
    arrange(pairs, lines.length > LISTED ? [...lines.slice(0, LISTED), el("li", { text: t("andMore", { n: lines.length - LISTED }) })] : lines);
    show(left, leftOut.length > 0);
    left.querySelector("summary").textContent = t(leftOut.length === 1 ? "leftOutOne" : "leftOut", { n: leftOut.length });
    const items = leftOut.slice(0, LISTED).map((one) => el("li", {}, el("b", { text: one.name }), ` ${why(one)}`));
    arrange(left.querySelector("ul"), items);
    show(clear, files.size + zips.length > 0);
    submit.disabled = busy || (count === 0 && !isUnsure);
  }

  /** The settings that the template knows, by the gateway's own description. */
  async function describe() {
    const schemas = (await get("/openapi.json").catch(() => null))?.components.schemas ?? {};
    const names = Object.keys(schemas).filter((name) => name.startsWith("Config_")).map((name) => name.slice(7));
    parameters = schemas[`Config_${template}`]?.properties ?? {};
    const inputs = [];
    const numeric = (name, hint, { isEmpty = false } = {}) => {
      const one = parameters[name];
      if (!one) return;
      const input = el("input", { type: "number", name, min: one.minimum, max: name === "seed" ? null : one.maximum,
        step: one.multipleOf ?? (one.type === "integer" ? 1 : "any"), value: isEmpty ? "" : one.default });
      inputs.push(field(t(name), input, hint));
    };
    numeric("resolution", t("resolutionHint"));
    if (parameters.engine) inputs.push(field(t("engine"), named("engine", parameters.engine.enum.map((one) => [one, one]), parameters.engine.default)));
    const priorities = ["normal", "priority"].map((one) => [one, t(`priority.${one}`)]);
    inputs.push(field(t("priority"), named("priority", priorities, "normal")));
    numeric("duration", t("durationHint"), { isEmpty: true });
    numeric("seed", t("seedHint"), { isEmpty: true });
    inputs.push(field(t("consent"), el("input", { type: "text", name: "consent_id", maxlength: 200, autocomplete: "off" }), t("consentHint")));
    if (names.length > 1) {
      inputs.unshift(field(t("template"), select(names.sort().map((one) => [one, one]), template, (value) => {
        template = value;
        describe();
      })));
    }
    settings.replaceChildren(settings.firstChild, ...inputs);
  }

  function named(name, options, chosen) {
    const made = select(options, chosen);
    made.name = name;
    return made;
  }

  /** What the settings say; null when one of them cannot be, which is said. */
  function chosen() {
    const config = {};
    const fields = { priority: "normal", consent_id: "" };
    for (const input of settings.querySelectorAll("[name]")) {
      if (!input.checkValidity()) {
        const one = parameters[input.name] ?? {};
        const text = one.multipleOf ? "wrongNumber" : "wrongRange";
        fault(t(text, { what: t(input.name), low: one.minimum ?? 0, high: one.maximum ?? "…", step: one.multipleOf ?? 1 }));
        input.focus();
        return null;
      }
      if (input.name in fields) fields[input.name] = input.value.trim();
      else if (input.value !== "") config[input.name] = input.type === "number" ? Number(input.value) : input.value;
    }
    return { ...fields, workflow: template, config: JSON.stringify(config) };
  }

  function fault(text) {
    say(wrong, text);
    show(wrong, Boolean(text));
  }

  async function send() {
    const said = chosen();
    if (!said) return;
    const batch = plan.pairs.length > 1 ? `panel-${Date.now().toString(36)}-${Math.random().toString(36).slice(2, 8)}` : "";
    const singles = plan.pairs.map((one) => ({ name: one.name, path: "/v1/tasks", form: () => form({ ...said, batch, name: one.name },
      { image: files.get(one.portrait), audio: files.get(one.voice) }) }));
    const whole = zips.map((one) => ({ name: one.file.name, path: "/v1/batches", form: () => form(said, { archive: one.file }) }));
    const things = [...singles, ...whole].map((one) => ({ ...one, once: randomId(), done: 0, answer: null, problem: null }));
    await sendAll(things, batch);
  }

  async function sendAll(things, batch) {
    busy = true;
    fault("");
    [submit.disabled, settings.disabled, choose.disabled] = [true, true, true];
    show(clear, false);
    show(progress, true);
    const waiting = things.filter((one) => !one.answer);
    const tell = () => {
      progress.value = things.reduce((sum, one) => sum + (one.answer ? 1 : one.done), 0) / things.length;
      say(summary, t("sending", { done: things.filter((one) => one.answer).length, total: things.length }));
    };
    const lane = async () => {
      for (let one = waiting.shift(); one; one = waiting.shift()) {
        await sendOne(one, tell);
        tell();
      }
    };
    tell();
    await Promise.all(Array.from({ length: AT_ONCE }, lane));
    busy = false;
    finished(things, batch);
  }

  async function sendOne(one, tell) {
    one.problem = null;
    const progressed = (part) => {
      one.done = part * 0.98;
      tell();
    };
    for (;;) {
      try {
        one.answer = await upload(one.path, one.form(), { once: one.once, progress: progressed });
        return;
      } catch (problem) {
        if (!(problem instanceof Problem)) throw problem;
        one.done = 0;
        if (problem.kind !== "too-many-requests") {
          one.problem = problem;
          return;
        }
        await new Promise((resolve) => setTimeout(resolve, 1000 * Math.max(1, problem.waitS)));
      }
    }
  }

  function finished(things, batch) {
    const made = things.filter((one) => one.answer);
    const count = made.reduce((sum, one) => sum + (one.answer.task_ids?.length ?? 1), 0);
    const failed = things.filter((one) => one.problem);
    const batches = [...(batch ? [batch] : []), ...made.map((one) => one.answer.batch_id).filter(Boolean)];
    const warned = made.flatMap((one) => (one.answer.warnings ?? []).map((text) => [one.name, text.warning ?? text]));
    const left = made.flatMap((one) => (one.answer.left_out ?? []).map((item) => [item.file, item.reason]));
    const list = (title, rows) => rows.length ? el("section", { class: "part" }, el("h3", { text: title }),
      el("ul", { class: "pairs" }, ...rows.slice(0, LISTED).map(([name, text]) => el("li", {}, el("b", { text: name }), ` ${text}`)))) : null;
    const filters = batches.length === 1 ? { batch: batches[0] } : {};
    body.replaceChildren(...[
      el("p", { class: "summary", role: "status", text: t(count === 1 ? "sentOne" : "sent", { n: count }) }),
      list(t("notSent", { n: failed.length }), failed.map((one) => [one.name, page.sentence(one.problem)])),
      list(t("warnings"), warned), list(t("leftOut", { n: left.length }), left),
      el("div", { class: "acts" },
        failed.length ? button(t("sendRest"), () => (body.replaceChildren(summary, progress), sendAll(things, batch))) : null,
        button(t("showJobs"), () => (node.close(), page.go("jobs", filters)), { kind: "primary" })),
    ].filter(Boolean));
    body.querySelector(".primary").focus();
  }

  replan();
  describe();
  add(first);
  return { add, isOpen: () => node.open && !busy && body.contains(choose) };
}

function form(fields, files) {
  const made = new FormData();
  for (const [name, value] of Object.entries(fields)) if (value !== "") made.append(name, value);
  for (const [name, file] of Object.entries(files)) made.append(name, file, file.name);
  return made;
}

function randomId() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}
