"""Comfy API v2 on the same queue: the official client drives every ComfyUI of it by another base address only."""
