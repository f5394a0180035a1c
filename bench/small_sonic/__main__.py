"""Makes the files of a small Sonic that speaks in the example portraits.

    python -m bench.small_sonic FOLDER [--size PIXELS] [--seconds S] [--rife FILE]
                                [--autoencoder-steps N] [--network-steps N] [--seed N]

FOLDER is a folder of models as ComfyUI has one, for ``--models`` of bench.quality, or to be ComfyUI's own. With what is
preset it takes an hour and a quarter on two cores. ``--rife``: RIFE's published weights, to be taken over.
"""

from __future__ import annotations

import argparse
import logging
import sys
from pathlib import Path

from ..comfyui_here import import_comfyui


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--seconds", type=float, default=6.0)
    parser.add_argument("--rife", type=Path)
    parser.add_argument("--autoencoder-steps", type=int, default=2000)
    parser.add_argument("--network-steps", type=int, default=4000)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    import_comfyui()
    import torch
    from comfyui_sonic.sonic.native.image_encoder import ImageEncoder

    from .autoencoder import taught_autoencoder
    from .files import random_image_encoder, random_whisper, write_files
    from .lessons import lessons
    from .network import Heard, taught_network

    torch.manual_seed(options.seed)
    taught = list(lessons(options.size, options.seconds))
    autoencoder = taught_autoencoder(taught, options.autoencoder_steps, options.seed)
    whisper, clip = random_whisper(options.seed), random_image_encoder(options.seed)
    eye = ImageEncoder(clip, "the small image encoder")
    heard = [Heard.of(one, autoencoder, whisper, eye.encode(one.prepared.picture), every=2) for one in taught]
    unet, projection = taught_network(heard, options.network_steps, options.seed)
    write_files(options.folder, unet, projection, whisper, clip, autoencoder, options.rife)
    sys.stdout.write(f"{options.folder}\n")


if __name__ == "__main__":
    main()
