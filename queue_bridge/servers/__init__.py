"""ComfyUI processes: one, and one for each card."""
