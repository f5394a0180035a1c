"""BlazeFace (short range) and the 468-point face mesh in plain torch.

Architecture and weights are MediaPipe's (Apache-2.0), converted once by ``face_weights.py`` beside this file.
Tensors are NCHW float32; pictures come in as RGB.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F  # noqa: N812  (torch's own convention)
from safetensors.torch import load_file
from torch import Tensor, nn

WEIGHTS = Path(__file__).with_name("face.safetensors")

DETECTOR_SIZE = 128
DETECTOR_WIDTHS = (24, 28, 32, 36, 42, 48, 56, 64, 72, 80, 88, 96, 96, 96, 96, 96)
DETECTOR_STRIDED = {2, 5, 11}  # blocks that halve the map
DETECTOR_FINE = 10  # the last block before the coarse map
ANCHORS_FINE, ANCHORS_COARSE = 2, 6  # per cell of the 16x16 and the 8x8 map
BOX_NUMBERS = 16  # centre, size, six key points

MESH_SIZE = 192
MESH_POINTS = 468
MESH_WIDTHS = (16, 16, 32, 32, 32, 64, 64, 64, 128, 128, 128, 128, 128, 128)
MESH_STRIDED = {2, 5, 8, 11}


def pad_same(x: Tensor, kernel: int, stride: int) -> Tensor:
    """TensorFlow's SAME padding for an even input: the odd pixel goes to the right and the bottom."""
    total = kernel - stride
    before = total // 2
    return F.pad(x, (before, total - before, before, total - before))


class ResidualBlock(nn.Module):
    """Depthwise 3x3, pointwise 1x1, plus the input (pooled and zero-extended where the shape changes)."""

    def __init__(self, channels_in: int, channels_out: int, stride: int, activation: nn.Module) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(channels_in, channels_in, 3, stride, groups=channels_in)
        self.pointwise = nn.Conv2d(channels_in, channels_out, 1)
        self.activation = activation
        self.stride = stride
        self.extra_channels = channels_out - channels_in

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.pointwise(self.depthwise(pad_same(x, 3, self.stride)))
        shortcut = F.max_pool2d(x, 2) if self.stride == 2 else x
        if self.extra_channels:
            shortcut = F.pad(shortcut, (0, 0, 0, 0, 0, self.extra_channels))
        z: Tensor = self.activation(y + shortcut)
        return z


class FaceDetector(nn.Module):
    """BlazeFace: (N, 3, 128, 128) in -1..1 -> boxes (N, 896, 16) and scores (N, 896).

    Boxes are in pixels from each anchor, scores before the sigmoid.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, DETECTOR_WIDTHS[0], 5, 2)
        widths = (DETECTOR_WIDTHS[0], *DETECTOR_WIDTHS)
        self.blocks = nn.ModuleList(
            ResidualBlock(widths[i], widths[i + 1], 2 if i in DETECTOR_STRIDED else 1, nn.ReLU())
            for i in range(len(DETECTOR_WIDTHS))
        )
        fine, coarse = DETECTOR_WIDTHS[DETECTOR_FINE], DETECTOR_WIDTHS[-1]
        self.score_fine = nn.Conv2d(fine, ANCHORS_FINE, 1)
        self.score_coarse = nn.Conv2d(coarse, ANCHORS_COARSE, 1)
        self.box_fine = nn.Conv2d(fine, ANCHORS_FINE * BOX_NUMBERS, 1)
        self.box_coarse = nn.Conv2d(coarse, ANCHORS_COARSE * BOX_NUMBERS, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = F.relu(self.stem(pad_same(x, 5, 2)))
        fine = x
        for index, block in enumerate(self.blocks):
            x = block(x)
            if index == DETECTOR_FINE:
                fine = x

        def rows(y: Tensor, numbers: int) -> Tensor:
            return y.permute(0, 2, 3, 1).reshape(y.shape[0], -1, numbers)

        boxes = torch.cat([rows(self.box_fine(fine), BOX_NUMBERS), rows(self.box_coarse(x), BOX_NUMBERS)], dim=1)
        scores = torch.cat([rows(self.score_fine(fine), 1), rows(self.score_coarse(x), 1)], dim=1)[..., 0]
        return boxes, scores


class FaceMesh(nn.Module):
    """(N, 3, 192, 192) in 0..1 -> landmarks (N, 468, 3) in pixels of that crop, score (N,) 0..1."""

    def __init__(self) -> None:
        super().__init__()

        def block(channels_in: int, channels_out: int, stride: int = 1) -> ResidualBlock:
            return ResidualBlock(channels_in, channels_out, stride, nn.PReLU(channels_out))

        def head(blocks: list[nn.Module], numbers: int) -> nn.Sequential:
            return nn.Sequential(*blocks, nn.Conv2d(128, 32, 1), nn.PReLU(32), block(32, 32), nn.Conv2d(32, numbers, 3))

        widths = (MESH_WIDTHS[0], *MESH_WIDTHS)
        self.stem = nn.Conv2d(3, MESH_WIDTHS[0], 3, 2)
        self.stem_activation = nn.PReLU(MESH_WIDTHS[0])
        self.trunk = nn.Sequential(
            *(block(widths[i], widths[i + 1], 2 if i in MESH_STRIDED else 1) for i in range(len(MESH_WIDTHS)))
        )
        self.landmark_head = head([block(128, 128, 2), block(128, 128), block(128, 128)], 3 * MESH_POINTS)
        self.score_head = head([block(128, 128, 2)], 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(self.stem_activation(self.stem(pad_same(x, 3, 2))))
        landmarks = self.landmark_head(x).reshape(-1, MESH_POINTS, 3)
        return landmarks, torch.sigmoid(self.score_head(x).reshape(-1))


@cache
def load_face_networks() -> tuple[FaceDetector, FaceMesh]:
    """Both networks with their shipped weights (fp16 on disk, fp32 here), ready for inference on the CPU."""
    state = {key: value.float() for key, value in load_file(WEIGHTS).items()}
    networks = FaceDetector(), FaceMesh()
    for prefix, network in zip(("detector.", "mesh."), networks, strict=True):
        network.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        network.eval().requires_grad_(False)
    return networks
