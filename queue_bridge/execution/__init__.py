"""A job's run inside a ComfyUI server: claimed, kept, watched, committed."""
