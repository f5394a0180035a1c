// What a node has done stays on it. Older pages keep the last progress text after a run; newer ones take it away at the
// run's end, and there the lines that the node has left in its output are put into a field of their own.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";
import { ComfyWidgets } from "../../scripts/widgets.js";

const OURS = /^sonic_/i;
const PROGRESS = "$$node-text-preview"; // the page's own field
const REPORT = "sonic_report";
const SETTLED_MS = 300; // the page takes its fields away in the same turn as the event

const finished = new Set(); // nodes of ours that this run has executed

function fieldOf(node, name) {
  return node.widgets?.find((widget) => widget.name === name);
}

function show(node) {
  if (fieldOf(node, PROGRESS)) return;
  let field = fieldOf(node, REPORT);
  if (!field) {
    field = ComfyWidgets.STRING(node, REPORT, ["STRING", { multiline: true }], app).widget;
    field.label = " ";
    field.serialize = false; // neither in the workflow
    field.options.serialize = false; // nor in the prompt
    field.options.read_only = true;
    if (field.element) field.element.readOnly = true;
  }
  field.value = node.sonicReport;
}

function showAll() {
  setTimeout(() => {
    for (const node of finished) show(node);
    finished.clear();
    app.canvas?.setDirty?.(true, true);
  }, SETTLED_MS);
}

for (const end of ["execution_success", "execution_error", "execution_interrupted"]) api.addEventListener(end, showAll);

app.registerExtension({
  name: "Sonic.NodeReport",
  nodeCreated(node) {
    if (!OURS.test(node.comfyClass ?? "")) return;
    const before = node.onExecuted;
    node.onExecuted = function (output) {
      before?.apply(this, arguments);
      if (!output?.text?.length) return;
      this.sonicReport = output.text.join("\n");
      finished.add(this);
    };
  },
});
