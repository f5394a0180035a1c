"""Makes mouth.safetensors from nothing; needs the extra packages named in docs/training.md, at training time only."""
