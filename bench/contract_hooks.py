"""What schemathesis is told of the gateway's requests; it loads this file in its own environment (gateway_contract.py).

CONTRACT_ROOT: the folder that jobs may use.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import schemathesis

ADDRESSES = {"image": "a.png", "image_url": "a.png", "audio": "a.wav", "audio_url": "a.wav", "output": "{task_id}.mp4"}
# Any text fits their schema, and nearly none is a template, an address on the web or what else they have to be.
FREE_TEXTS = ("workflow", "callback")
OBJECTS = ("labels",)  # in a form, as JSON


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leaves out forms that are meant as wrong but arrive as right ones: a form has texts only.

    An empty list or object in a field makes no part, so nothing of it is sent; a number or a list where a text belongs
    is sent as a text, and as such it is as good as any.
    """
    body = case.body
    if case.media_type != "multipart/form-data" or not isinstance(body, dict):
        return True
    return all(
        value not in ([], {}) and (name in OBJECTS or isinstance(value, str | bytes)) for name, value in body.items()
    )


@schemathesis.hook
def map_body(context: Any, body: Any) -> Any:
    """Lets every second text that fits its schema be one that a job may have, so that there are tasks to go on with."""
    if not isinstance(body, dict):
        return body
    if isinstance(body.get("tasks"), list):
        return {**body, "tasks": [map_body(context, one) for one in body["tasks"]]}
    root, mapped = Path(os.environ["CONTRACT_ROOT"]), {}
    for name, value in body.items():
        fits = isinstance(value, str) and 1 <= len(value) <= 200 and len(value) % 2 == 1
        if fits and name in ADDRESSES:
            mapped[name] = f"{root.as_uri()}/{ADDRESSES[name]}"
        elif not (fits and name in FREE_TEXTS):
            mapped[name] = value
    return mapped
