// Some versions of the browser's part (1.32 is one) load a language after the translations of packs and thereby lose
// them. Where that has happened, ours are put in place here; where it has not, nothing is done.
import { api } from "../../scripts/api.js";
import { app } from "../../scripts/app.js";

const OURS = /^sonic_/i;
let names = {}; // what is missing, by node id

async function translations() {
  const language = app.ui.settings.getSettingValue("Comfy.Locale");
  const answer = await api.fetchApi("/i18n");
  return (answer.ok && (await answer.json())[language]?.nodeDefs) || {};
}

function translateDefinition(told, definition) {
  definition.display_name = told.display_name;
  definition.description = told.description;
  for (const group of [definition.input?.required, definition.input?.optional]) {
    for (const [name, [, details]] of Object.entries(group ?? {})) {
      const tooltip = told.inputs[name]?.tooltip;
      if (details && tooltip) details.tooltip = tooltip;
    }
  }
  definition.output_tooltips = definition.output_tooltips?.map((own, index) => told.outputs?.[index]?.tooltip ?? own);
}

function translateNode(node) {
  const told = names[node.comfyClass];
  if (!told) return;
  for (const widget of node.widgets ?? []) widget.label = told.inputs[widget.name]?.name ?? widget.label;
  for (const input of node.inputs ?? []) input.localized_name = told.inputs[input.name]?.name ?? input.localized_name;
  node.outputs?.forEach((output, index) => {
    output.localized_name = told.outputs?.[index]?.name ?? output.localized_name;
  });
}

app.registerExtension({
  name: "Sonic.NodeNames",
  async addCustomNodeDefs(definitions) {
    const found = await translations().catch(() => ({}));
    names = Object.fromEntries(
      Object.entries(found).filter(
        ([id, told]) => OURS.test(id) && definitions[id] && definitions[id].display_name !== told.display_name,
      ),
    );
    for (const [id, told] of Object.entries(names)) translateDefinition(told, definitions[id]);
  },
  nodeCreated: translateNode,
  loadedGraphNode: translateNode,
});
