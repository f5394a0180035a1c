// A finished video becomes a node of the graph that is open.

/** A node that loads this file of ComfyUI's input folder, in the middle of what is seen of the graph. */
export function onCanvas(app, file) {
  const node = globalThis.LiteGraph.createNode("LoadVideo");
  if (!node) throw new Error("LoadVideo");
  const [x, y, width, height] = app.canvas.ds?.visible_area ?? [0, 0, 0, 0];
  node.pos = [x + width / 2 - node.size[0] / 2, y + height / 2 - node.size[1] / 2];
  const graph = app.canvas.graph ?? app.graph; // the subgraph that is open, where one is
  graph.add(node);
  const widget = node.widgets.find((one) => one.name === "file");
  const values = widget.options?.values;
  if (Array.isArray(values) && !values.includes(file)) values.push(file);
  widget.value = file;
  widget.callback?.(file);
  app.canvas.selectNode?.(node);
  graph.setDirtyCanvas(true, true);
  return node;
}
