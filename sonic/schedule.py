"""Numbers of the published sampler and of time: noise levels, frames at the model's rate. Integers and floats only."""

from __future__ import annotations

MODEL_FPS = 12.5  # frames a second that the network makes; the finished video's rate is another matter
SAMPLES_PER_UNIT = 640  # of 16 kHz speech, 40 ms
UNITS_PER_FRAME = 2
SIGMA_MAX, SIGMA_MIN, RHO = 700.0, 0.002, 7.0


def karras_sigmas(steps: int) -> list[float]:
    """Noise levels of ``steps`` denoising steps, falling from 700 to 0.002, then 0: steps + 1 numbers."""
    high, low = SIGMA_MAX ** (1 / RHO), SIGMA_MIN ** (1 / RHO)
    ramp = [index / (steps - 1) if steps > 1 else 0.0 for index in range(steps)]
    return [*((high + part * (low - high)) ** RHO for part in ramp), 0.0]


def audio_units(samples: int) -> int:
    """Whole 40 ms units in ``samples`` of 16 kHz speech."""
    return samples // SAMPLES_PER_UNIT


def latent_frames(samples: int) -> int:
    """Frames the network makes for ``samples`` of 16 kHz speech: whole ones, 80 ms each, at least one."""
    return max(1, audio_units(samples) // UNITS_PER_FRAME)


def source_position(index: int, fps: float, frames: int, finest: int) -> tuple[int, int]:
    """Where frame ``index`` of a video at ``fps`` lies among ``frames`` at the model's rate: (frame, parts beyond it).

    A part is 1 / finest of the way to the next frame. Beyond the last frame the clip holds still.
    """
    position = min(round(index / fps * MODEL_FPS * finest), (frames - 1) * finest)
    return divmod(position, finest)
