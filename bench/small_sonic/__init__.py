"""Teaches a small Sonic to speak in the example portraits, so that a bench sees Sonic's own frames without its weights.

The files have the published names, parts and layouts and are read by the engine as any others; the networks are some
hundred times smaller. What they know is how the draft engine's mouth moves in the portraits and to the recordings of
`bench.clips`, and nothing else: another portrait comes out as one of these. Whisper, CLIP and the motion buckets are
random. Every frame is taught on its own; the layers over time are there, and let it pass.
"""
