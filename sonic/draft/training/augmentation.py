"""Makes synthetic speech sound like many speakers, rooms, microphones and noises: on mel power, in batches, seeded."""

from __future__ import annotations

import torch
from torch.nn import functional

from ..log_mel import FLOOR, MELS, MELS_PER_SECOND


def augment(mel: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """(batch, rows, 40) log10 mel power -> the same, not normalised; a tenth of the batch stays clean."""
    batch = mel.shape[0]
    changed = _warp(mel, chance)
    changed = changed + _colour(batch, 0.5, chance)
    changed = _room(changed, chance)
    changed = _noise(changed, chance)
    changed = changed + _colour(batch, 0.35, chance)
    changed = _narrow_band(changed, chance)
    clean = _uniform((batch, 1, 1), 0, 1, chance) < 0.1
    return torch.where(clean, mel, changed)


def _uniform(shape: tuple[int, ...], low: float, high: float, chance: torch.Generator) -> torch.Tensor:
    return torch.rand(shape, generator=chance) * (high - low) + low


def _warp(mel: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Longer and shorter vocal tracts: the frequency axis stretched or squeezed by 9 % and bent."""
    batch, rows, _ = mel.shape
    band = torch.linspace(0, 1, MELS)
    stretch = _uniform((batch, 1), -0.09, 0.09, chance)
    bend = _uniform((batch, 1), -0.03, 0.03, chance)
    where = band * (1 + stretch) + bend * torch.sin(torch.pi * 2 * band)
    position = (where * (MELS - 1)).clamp(0, MELS - 1.001)
    low = position.floor().long()
    part = (position - low)[:, None, :]
    index = low[:, None, :].expand(batch, rows, MELS)
    return torch.gather(mel, 2, index) * (1 - part) + torch.gather(mel, 2, index + 1) * part


def _colour(batch: int, strength: float, chance: torch.Generator) -> torch.Tensor:
    """Tilt and slow bumps over frequency, up to about +-2 * strength bels."""
    band = torch.linspace(0, 1, MELS)
    waves = torch.stack([torch.cos(torch.pi * k * band) for k in range(1, 6)])
    weights = torch.randn((batch, 5), generator=chance) * strength / torch.arange(1, 6).sqrt()
    return (weights @ waves)[:, None, :]


def _room(mel: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Half of the batch gets a decaying tail of 0.1 to 0.8 s."""
    batch, rows, bands = mel.shape
    reverberation_s = _uniform((batch, 1), 0.1, 0.8, chance)
    step = torch.arange(1, 31) / MELS_PER_SECOND
    tail = 10 ** (-6 * step / reverberation_s)
    wet = 10 ** _uniform((batch, 1), -2.2, -0.7, chance) * (_uniform((batch, 1), 0, 1, chance) < 0.5)
    kernel = torch.cat([torch.ones(batch, 1), wet * tail], 1).flip(1)[:, None, :]
    power = (10**mel).transpose(0, 1).reshape(rows, batch, bands).permute(2, 1, 0)  # (bands, batch, rows)
    smeared = functional.conv1d(functional.pad(power, (30, 0)), kernel, groups=batch)
    return torch.log10(smeared.permute(1, 2, 0) + 10**FLOOR)


def _noise(mel: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """Coloured noise, steady or swelling, 3 to 50 dB below; and in a sixth of the batch other people far away."""
    batch, rows, bands = mel.shape
    level = torch.log10((10**mel).sum(2).mean(1))[:, None, None]
    below = torch.where(
        _uniform((batch, 1, 1), 0, 1, chance) < 0.25,
        _uniform((batch, 1, 1), 0.3, 1.5, chance),
        _uniform((batch, 1, 1), 1.5, 5.0, chance),
    )
    tilt = -torch.linspace(0, 1, bands) * _uniform((batch, 1, 1), -0.5, 3.0, chance) - 1.3
    grain = torch.log10(torch.empty(batch, rows, bands).exponential_(generator=chance) * 0.35 + 0.65)
    slow = torch.randn((batch, 1, max(2, rows // 60)), generator=chance)
    swell = functional.interpolate(slow, size=rows, mode="linear")[:, 0, :, None]
    swell = swell * _uniform((batch, 1, 1), 0, 0.4, chance)
    noise = level - below + tilt + _colour(batch, 0.3, chance) + grain + swell
    babble = level - _uniform((batch, 1, 1), 1.0, 2.5, chance) + (mel.roll(1, 0) - level.roll(1, 0))
    babble = torch.where(_uniform((batch, 1, 1), 0, 1, chance) < 0.16, babble, torch.full((), FLOOR))
    return torch.log10(10**mel + 10**noise + 10**babble)


def _narrow_band(mel: torch.Tensor, chance: torch.Generator) -> torch.Tensor:
    """A quarter of the batch has lost its top (telephones, 8 kHz recordings), an eighth its bottom."""
    batch = mel.shape[0]
    band = torch.arange(MELS)
    top = torch.randint(24, MELS, (batch, 1, 1), generator=chance)
    top = torch.where(_uniform((batch, 1, 1), 0, 1, chance) < 0.25, top, MELS)
    bottom = torch.randint(1, 5, (batch, 1, 1), generator=chance)
    bottom = torch.where(_uniform((batch, 1, 1), 0, 1, chance) < 0.12, bottom, 0)
    lost = (band >= top) | (band < bottom)
    return torch.where(lost, (mel - 3.0).clamp(min=FLOOR), mel)
