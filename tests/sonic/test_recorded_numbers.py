"""Every stage against recorded numbers of the published inference; another folder of them is named by --recorded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

Measure = Callable[[torch.Tensor, torch.Tensor], float]


@pytest.mark.parametrize("shape", ["square", "wide"])
def test_one_call_of_the_network(shape: str, recorded: Any, native: Any, unet: Any, relative_rms: Measure) -> None:
    sample, audio = recorded[f"unet_{shape}_sample"], recorded[f"unet_{shape}_audio"]
    branches, frames = sample.shape[:2]
    embeds = recorded["image_embeds"]
    context = torch.cat([torch.zeros_like(embeds), *[embeds] * (branches - 1)])[:, None]
    model = unet.model
    ids = torch.cat([model.time_ids(float(row[0]), row[1:]) for row in recorded[f"unet_{shape}_ids"]])
    mask = native.network.FaceMask(recorded[f"unet_{shape}_mask"][0, 0])
    with torch.inference_mode():
        found = model.diffusion_model(
            sample.flatten(0, 1),
            torch.full((branches * frames,), recorded.config[f"unet_{shape}_timestep"]),
            context=context.repeat_interleave(frames, dim=0),
            y=ids.repeat_interleave(frames, dim=0),
            num_video_frames=frames,
            sonic_tokens=audio.flatten(0, 1),
            sonic_mask=mask,
        )
    assert relative_rms(found.unflatten(0, (branches, frames)), recorded[f"unet_{shape}_out"]) <= 2e-5
