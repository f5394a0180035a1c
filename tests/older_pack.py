"""Graphs as people have saved them with the older Sonic pack, to be converted. For tests."""

from __future__ import annotations

from typing import Any

Json = dict[str, Any]


def exported(**sampler: Any) -> Json:
    """In the form of /prompt, as clients of that pack send it."""
    return {
        "32": {"class_type": "ImageOnlyCheckpointLoader", "inputs": {"ckpt_name": "video/svd_xt_1_1.safetensors"}},
        "18": {"class_type": "LoadImage", "inputs": {"image": "portrait.png"}},
        "26": {"class_type": "LoadAudio", "inputs": {"audio": "voice.wav", "audioUI": ""}},
        "34": {
            "class_type": "SONICTLoader",
            "inputs": {"model": ["32", 0], "sonic_unet": "unet.pth", "ip_audio_scale": 1, "use_interframe": True,
                       "dtype": "fp16"},
            "_meta": {"title": "SONICTLoader"},
        },
        "33": {
            "class_type": "SONIC_PreData",
            "inputs": {"clip_vision": ["32", 1], "vae": ["32", 2], "audio": ["26", 0], "image": ["18", 0],
                       "weight_dtype": ["34", 1], "min_resolution": 576, "duration": 99999, "expand_ratio": 1},
            "_meta": {"title": "The face"},
        },
        "31": {
            "class_type": "SONICSampler",
            "inputs": {"model": ["34", 0], "data_dict": ["33", 0], "seed": 0, "randomize": "randomize",
                       "inference_steps": 25, "dynamic_scale": 1, "fps": 24, **sampler},
        },
        "21": {"class_type": "CreateVideo", "inputs": {"images": ["31", 0], "fps": ["31", 1], "audio": ["26", 0]}},
        "20": {
            "class_type": "SaveVideo",
            "inputs": {"video": ["21", 0], "filename_prefix": "video/older", "format": "mp4", "codec": "h264"},
        },
    }  # fmt: skip


def saved(links_as_objects: bool = False) -> Json:
    """As the browser saves it: the same graph, with a text in a Note and the rate of the video connected."""
    nodes = [
        _node(16, "ImageOnlyCheckpointLoader", [], [("MODEL", "MODEL"), ("CLIP_VISION", "CLIP_VISION"), ("VAE", "VAE")],
              ["svd_xt.safetensors"]),
        _node(18, "LoadImage", [], [("IMAGE", "IMAGE"), ("MASK", "MASK")], ["portrait.png", "image"]),
        _node(19, "LoadAudio", [], [("AUDIO", "AUDIO")], ["voice.wav", None, None]),
        _node(14, "SONICTLoader", [("model", "MODEL")], [("model", "MODEL_SONIC"), ("weight_dtype", "DTYPE")],
              ["unet.pth", 1.2, False, "bf16"]),
        _node(17, "SONIC_PreData",
              [("clip_vision", "CLIP_VISION"), ("vae", "VAE"), ("audio", "AUDIO"), ("image", "IMAGE"),
               ("weight_dtype", "DTYPE")], [("data_dict", "SONIC_PREDATA")], [100, 3, 0.5]),
        _node(15, "SONICSampler", [("model", "MODEL_SONIC"), ("data_dict", "SONIC_PREDATA")],
              [("image", "IMAGE"), ("fps", "FLOAT")], [443489271, "randomize", 200, 1.3, 25]),
        _node(21, "CreateVideo", [("images", "IMAGE"), ("audio", "AUDIO"), ("fps", "FLOAT")], [("VIDEO", "VIDEO")],
              [30]),
        _node(20, "SaveVideo", [("video", "VIDEO")], [], ["video/older", "mp4", "h264"]),
        _node(22, "Note", [], [], ["An older graph."]),
    ]  # fmt: skip
    by_id = {node["id"]: node for node in nodes}
    by_id[21]["inputs"][2]["widget"] = {"name": "fps"}
    wires = [
        (16, 0, 14, 0), (16, 1, 17, 0), (16, 2, 17, 1), (19, 0, 17, 2), (18, 0, 17, 3), (14, 1, 17, 4),
        (14, 0, 15, 0), (17, 0, 15, 1), (15, 0, 21, 0), (19, 0, 21, 1), (15, 1, 21, 2), (21, 0, 20, 0),
    ]  # fmt: skip
    links: list[Any] = []
    for number, (origin, slot, target, at) in enumerate(wires, 1):
        output = by_id[origin]["outputs"][slot]
        output["links"] = [*(output["links"] or []), number]
        by_id[target]["inputs"][at]["link"] = number
        links.append([number, origin, slot, target, at, output["type"]])
    if links_as_objects:
        names = ("id", "origin_id", "origin_slot", "target_id", "target_slot", "type")
        links = [dict(zip(names, link, strict=True)) for link in links]
    return {"last_node_id": 22, "last_link_id": len(links), "nodes": nodes, "links": links, "groups": [],
            "config": {}, "extra": {}, "version": 0.4}  # fmt: skip


def _node(
    number: int, kind: str, inputs: list[tuple[str, str]], outputs: list[tuple[str, str]], values: list[Any]
) -> Json:
    return {
        "id": number, "type": kind, "pos": [300 * (number - 13), 200], "size": [270, 180], "flags": {}, "order": number,
        "mode": 0, "inputs": [{"name": name, "type": type_, "link": None} for name, type_ in inputs],
        "outputs": [{"name": name, "type": type_, "links": None} for name, type_ in outputs],
        "properties": {"cnr_id": "ComfyUI_Sonic", "ver": "1", "Node name for S&R": kind}, "widgets_values": values,
    }  # fmt: skip
