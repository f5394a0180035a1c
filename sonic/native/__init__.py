"""Sonic on ComfyUI's own SVD network: the only part of sonic/ that imports ComfyUI."""
