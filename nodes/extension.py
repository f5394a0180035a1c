"""The list of nodes that ComfyUI loads."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .composite import Composite
from .inference import Inference, InferenceAlias
from .interpolate import Interpolate
from .load import LoadPortrait, LoadVoice
from .load_model import Loader
from .post_process import PostProcess
from .pre_data import PreData, PreDataAlias
from .sampling_parts import SAMPLING_PARTS
from .save_video import SaveVideo


class SonicExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        nodes: list[type[io.ComfyNode]] = [
            LoadPortrait,
            LoadVoice,
            Loader,
            PreData,
            Inference,
            PostProcess,
            SaveVideo,
            Interpolate,
            Composite,
            *SAMPLING_PARTS,
        ]
        return [*nodes, PreDataAlias, InferenceAlias]
