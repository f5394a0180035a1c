"""The edge to ComfyUI's graph: nodes, socket types, file folders, progress and interrupt."""
