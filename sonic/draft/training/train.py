"""Trains the mouth network: seeded, on synthetic speech only; real recordings choose the checkpoint."""

from __future__ import annotations

import copy
import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn
from torch.nn import functional

from ..log_mel import FLOOR, MELS, normalise
from ..mouth_shapes import MOUTH_SHAPES, MouthNetwork, mouth_shapes
from .augmentation import augment
from .phonemes import SOUND_CLASSES
from .scores import score
from .synthesis import Example, espeak_plan, flite_plan, hours, synthesise
from .utterance import Recording

log = logging.getLogger("sonic.training")

SHAPE_WEIGHTS = {"open": 1.5, "wide": 0.7, "round": 1.0, "closed": 1.0, "teeth": 0.7, "silence": 0.4}


_NOBODY = Example(np.zeros((0, MELS), np.float16), np.zeros((0, len(MOUTH_SHAPES)), np.float16), np.zeros(0, np.int16))


@dataclass(frozen=True)
class Recipe:
    """How much is spoken and how long is learned.

    flite_share: part of each batch spoken by flite's voices. silent_share: part that holds noise only.
    rows: network rows (20 ms) per crop.
    """

    espeak_utterances: int = 4000
    flite_utterances: int = 1600
    flite_share: float = 0.5
    silent_share: float = 0.04
    steps: int = 1400
    batch: int = 40
    rows: int = 150
    peak_rate: float = 3e-3
    average: float = 0.99
    check_every: int = 100
    seed: int = 1


class _Learner(nn.Module):
    """The mouth network with a second head that names the kind of sound; the head is not shipped."""

    def __init__(self) -> None:
        super().__init__()
        self.network = MouthNetwork()
        self.sound_class = nn.Conv1d(MouthNetwork.CHANNELS, SOUND_CLASSES, 1)

    def forward(self, features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        hidden = self.network.hidden(features)
        return self.network.shapes(hidden), self.sound_class(hidden)


def material(recipe: Recipe, words: list[str]) -> tuple[list[Example], list[Example]]:
    """(espeak, flite) examples."""
    espeak = synthesise(espeak_plan(recipe.espeak_utterances, recipe.seed, words))
    flite = synthesise(flite_plan(recipe.flite_utterances, recipe.seed + 1, words))
    log.info("Spoken: %.1f h by espeak-ng, %.1f h by flite.", hours(espeak), hours(flite))
    return espeak, flite


def train(recipe: Recipe, espeak: list[Example], flite: list[Example], choice: Sequence[Recording]) -> MouthNetwork:
    """The averaged network that did best on the ``choice`` recordings."""
    torch.manual_seed(recipe.seed)
    chance = torch.Generator().manual_seed(recipe.seed)
    picker = np.random.default_rng(recipe.seed)
    learner = _Learner()
    average = copy.deepcopy(learner.network)
    optimiser = torch.optim.AdamW(learner.parameters(), lr=recipe.peak_rate, weight_decay=0.01)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimiser, recipe.peak_rate, total_steps=recipe.steps, pct_start=0.15
    )
    best, best_score = average, -math.inf
    for step in range(1, recipe.steps + 1):
        mel, shapes, classes = _batch(recipe, espeak, flite, picker)
        features = normalise(augment(mel, chance)).transpose(1, 2)
        learner.train()
        logits, kinds = learner(features)
        loss = _loss(logits, kinds, shapes, classes)
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(learner.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        _follow(average, learner.network, min(recipe.average, step / (step + 10)))
        if step % recipe.check_every == 0 or step == recipe.steps:
            value = choice_score(average.eval(), choice)
            log.info("step %d of %d: loss %.4f, real speech %.4f", step, recipe.steps, loss.item(), value)
            if value > best_score and step > recipe.steps // 2:
                best, best_score = copy.deepcopy(average), value
    return best.eval()


def choice_score(network: MouthNetwork, choice: Sequence[Recording]) -> float:
    """Jaw first, lips second."""
    values = score(choice, lambda speech, fps, frames: mouth_shapes(speech, fps, frames, network))
    return values["r_open"] + 0.3 * values["r_round"] + 0.5 * values["bilabial_auc"]


def save(network: MouthNetwork, path: Path) -> None:
    """float16, whole file or none."""
    state = {
        name: value.to(torch.float16) if value.is_floating_point() else value
        for name, value in network.state_dict().items()
        if not name.endswith("num_batches_tracked")
    }
    temporary = path.with_suffix(".part")
    save_file(state, temporary)
    temporary.replace(path)


def _loss(logits: torch.Tensor, kinds: torch.Tensor, shapes: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
    """Cross entropy against soft targets for every shape, squared error for jaw and lips, and the kind of sound."""
    weights = torch.tensor([SHAPE_WEIGHTS[name] for name in MOUTH_SHAPES])
    soft = functional.binary_cross_entropy_with_logits(logits, shapes, reduction="none").mean(dim=(0, 2))
    squared = (torch.sigmoid(logits) - shapes).square().mean(dim=(0, 2))
    return (weights * (0.3 * soft + 5.0 * squared)).sum() + 0.2 * functional.cross_entropy(kinds, classes)


def _follow(average: nn.Module, network: nn.Module, keep: float) -> None:
    with torch.no_grad():
        for mean, value in zip(average.state_dict().values(), network.state_dict().values(), strict=True):
            if mean.is_floating_point():
                mean.lerp_(value, 1 - keep)


def _batch(
    recipe: Recipe, espeak: list[Example], flite: list[Example], picker: np.random.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    from_flite = round(recipe.batch * recipe.flite_share) if flite else 0
    sources = [flite] * from_flite + [espeak] * (recipe.batch - from_flite)
    crops = [_crop(source[picker.integers(len(source))], recipe.rows, picker) for source in sources]
    for index in np.flatnonzero(picker.random(len(crops)) < recipe.silent_share):
        crops[index] = _crop(_NOBODY, recipe.rows, picker)
    order = picker.permutation(len(crops))
    mel, shapes, classes = (np.stack([crops[i][part] for i in order]) for part in range(3))
    return (
        torch.from_numpy(mel.astype(np.float32)),
        torch.from_numpy(shapes.astype(np.float32)).transpose(1, 2),
        torch.from_numpy(classes.astype(np.int64)),
    )


def _crop(
    one: Example, rows: int, picker: np.random.Generator
) -> tuple[NDArray[np.float16], NDArray[np.float16], NDArray[np.int16]]:
    """A random stretch with the network's context around it; silence beyond the ends."""
    context = MouthNetwork.CONTEXT
    start = int(picker.integers(min(0, len(one.shapes) - rows) - 10, max(0, len(one.shapes) - rows) + 11))
    mel = np.full((2 * rows + 2 * context, MELS), FLOOR, np.float16)
    shapes = np.zeros((rows, len(MOUTH_SHAPES)), np.float16)
    shapes[:, MOUTH_SHAPES.index("silence")] = 1.0
    classes = np.zeros(rows, np.int16)
    firsts = (2 * start - context, start, start)
    for target, source, first in zip((mel, shapes, classes), (one.mel, one.shapes, one.classes), firsts, strict=True):
        inside = source[max(0, first) : max(0, first + len(target))]
        target[max(0, -first) : max(0, -first) + len(inside)] = inside
    return mel, shapes, classes
