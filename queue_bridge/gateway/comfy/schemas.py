"""The objects of the Comfy API, for the gateway's description."""

from __future__ import annotations

from typing import Any

from ..fields import Field, schema_of
from .assets import FROM_HASH
from .job_view import STATUSES
from .jobs import JOB

Schema = dict[str, Any]
TIME = {"format": "date-time"}
WORDS = (*dict.fromkeys(STATUSES.values()), "canceling")

ASSET = (
    Field("id", "string", "its id", required=True),
    Field("hash", "string", "blake3:HEX of its bytes; null for an output", required=True, nullable=True),
    Field("size_bytes", "integer", "how many bytes", required=True),
    Field("content_type", "string", "as given, or video/mp4", required=True),
    Field("file_path", "string", "its name", nullable=True),
    Field("created_new", "boolean", "of an upload: the bytes were not here before"),
    Field("created_at", "string", "when", required=True, schema=TIME),
    Field("url", "string", "its content, for the same key", required=True),
    Field("url_expires_at", "string", "until when", required=True, schema=TIME),
    Field("expires_at", "string", "until when it is kept, unless it is used again", nullable=True, schema=TIME),
    Field("job_id", "string", "the job whose output it is", nullable=True),
)
OUTPUT = (
    Field("node_id", "string", "the node that saved it", required=True),
    Field("name", "string", "its name", required=True),
    Field("type", "string", "its kind", required=True, choices=("image", "video", "audio", "text", "file", "latent")),
    Field("content_type", "string", "its type", required=True),
    Field("size_bytes", "integer", "how many bytes", required=True),
    Field("id", "string", "its id as an asset", required=True),
    Field("hash", "string", "always null", required=True, nullable=True),
    Field("url", "string", "its content, for the same key", required=True),
    Field("url_expires_at", "string", "until when", required=True, schema=TIME),
    Field("job_id", "string", "its job", nullable=True),
)
PROGRESS = (
    Field("value", "number", "how much of it is done", required=True, low=0, high=1),
    Field("nodes_done", "integer", "about how many nodes", required=True),
    Field("nodes_total", "integer", "of how many", required=True),
    Field("current_node", "string", "the node at work", nullable=True),
    Field("current_node_class", "string", "its class", nullable=True),
    Field("step", "integer", "always null", nullable=True),
    Field("steps", "integer", "always null", nullable=True),
    Field("message", "string", "what is being done", nullable=True),
)
ERROR = (
    Field("code", "string", "invalid_input, out_of_memory, device_fault or node_execution_error", required=True),
    Field("message", "string", "one sentence", required=True),
    Field("node_id", "string", "always null", nullable=True),
    Field("class_type", "string", "always null", nullable=True),
    Field("traceback", "string", "always null", nullable=True),
)
JOB_OBJECT = (
    Field("id", "string", "its id", required=True),
    Field("status", "string", "where it is", required=True, choices=WORDS),
    Field("created_at", "string", "when", required=True, schema=TIME),
    Field("started_at", "string", "its last start", required=True, nullable=True, schema=TIME),
    Field("completed_at", "string", "its end", required=True, nullable=True, schema=TIME),
    Field("expires_at", "string", "until when it is kept", required=True, schema=TIME),
    Field("queue_position", "integer", "always null", required=True, nullable=True),
    Field("progress", "object", "how far it is", required=True, nullable=True),
    Field("outputs", "array", "what it has made", required=True),
    Field("error", "object", "why it failed", required=True, nullable=True),
    Field("metrics", "object", "queue_ms, execution_ms"),
    Field("metadata", "object", "as given", schema={"additionalProperties": {"type": "string"}}),
    Field("urls", "object", "addresses below this server", required=True),
)
SUMMARY = (
    Field("id", "string", "its id", required=True),
    Field("status", "string", "where it is", required=True, choices=WORDS),
    Field("create_time", "string", "when", required=True, schema=TIME),
    Field("update_time", "string", "its last change", required=True, schema=TIME),
    Field("metadata", "object", "as given", schema={"additionalProperties": {"type": "string"}}),
)


def comfy_schemas() -> dict[str, Schema]:
    """Every schema by its name."""
    text = {"type": "string"}
    job = schema_of(JOB_OBJECT)
    nullable = {"type": "null"}
    job["properties"]["progress"] = {"anyOf": [schema_of(PROGRESS), nullable]}
    job["properties"]["error"] = {"anyOf": [schema_of(ERROR), nullable]}
    job["properties"]["outputs"] = {"type": "array", "items": schema_of(OUTPUT)}
    form = {
        "file": {**text, "format": "binary", "contentMediaType": "application/octet-stream"},
        **dict.fromkeys(("content_type", "file_path", "expected_hash", "tags", "expires_in"), text),
    }
    error = {
        "type": "object",
        "properties": {"code": text, "message": text, "details": {"type": ["object", "null"]}},
        "required": ["code", "message"],
    }
    return {
        "ComfyAsset": schema_of(ASSET),
        "ComfyAssetList": _object({"assets": {"type": "array", "items": schema_of(ASSET)}}),
        "ComfyNewAsset": {"type": "object", "properties": form, "required": ["file"], "additionalProperties": False},
        "ComfyFromHash": schema_of(FROM_HASH),
        "ComfyNewJob": schema_of(JOB),
        "ComfyJob": job,
        "ComfyJobList": {
            "type": "object",
            "properties": {"jobs": {"type": "array", "items": schema_of(SUMMARY)}, "next_cursor": text},
            "required": ["jobs"],
        },
        "ComfyWorkflow": _object({"workflow": {"type": "object"}, "format": {"const": "api"}}),
        "ComfyError": _object({"error": error}),
    }


def _object(properties: dict[str, Any]) -> Schema:
    return {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
