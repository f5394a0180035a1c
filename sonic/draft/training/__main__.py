"""python -m comfyui_sonic.sonic.draft.training: the whole way from nothing to mouth.safetensors."""

from __future__ import annotations

import argparse
import logging
import time
from pathlib import Path

import torch

from ..mouth_shapes import WEIGHTS
from . import real_speech
from .train import Recipe, material, save, train


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=WEIGHTS)
    parser.add_argument("--seed", type=int, default=Recipe.seed)
    parser.add_argument("--steps", type=int, default=Recipe.steps)
    parser.add_argument("--threads", type=int, default=1, help="more help only on an otherwise idle machine")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(options.threads)
    recipe = Recipe(seed=options.seed, steps=options.steps)
    began = time.monotonic()
    choice = real_speech.aligned(real_speech.CHOICE)
    espeak, flite = material(recipe, real_speech.words())
    save(train(recipe, espeak, flite, choice), options.out)
    logging.getLogger("sonic.training").info("Wrote %s after %.0f s.", options.out, time.monotonic() - began)


if __name__ == "__main__":
    main()
