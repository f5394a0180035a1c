"""The description of the gateway (OpenAPI 3.1), made of the tables by which requests are routed and checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ..job import ID
from ..pipelines.templates import Parameter, Template
from .batches import BATCH, COUNTS, TASK_OF_BATCH
from .comfy.envelope import statuses_of
from .comfy.schemas import comfy_schemas
from .fields import schema_of
from .new_tasks import DEFAULTS, FILES, TASK
from .operations import JSON, PATTERNS, UNLOCKED, Answer, Operation, Schema
from .problem import CONTENT_TYPE as PROBLEM
from .problem import KINDS
from .queue_info import INSTANCE
from .task_view import RESULT_VIEW, TASK_VIEW

VERSION = "1"
FILE: Schema = {"type": "string", "format": "binary", "contentMediaType": "application/octet-stream"}
TEXT: Schema = {"type": "string"}
TEXTS: Schema = {"type": "array", "items": TEXT}
COUNT: Schema = {"type": "integer", "minimum": 0}
COUNT_BY_NAME: Schema = {"type": "object", "additionalProperties": COUNT}
LINKS: Schema = {"type": "object", "additionalProperties": TEXT}
OF_CARD: Mapping[str, Schema] = {
    "gpu_used": {
        "type": ["number", "null"],
        "minimum": 0,
        "maximum": 1,
        "description": "how busy the card is, whoever uses it; null where that is not known",
    },
    "gpu_memory_used": {
        "type": ["integer", "null"],
        "minimum": 0,
        "description": "bytes of the card's memory in use by all; null where that is not known",
    },
}
JSON_TYPES = {"int": "integer", "float": "number", "text": "string", "choice": "string", "bool": "boolean"}


def description(operations: Sequence[Operation], templates: Mapping[str, Template]) -> dict[str, Any]:
    """The whole document."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "sonic-queue gateway",
            "version": VERSION,
            "description": "Talking-head videos through a durable queue: one portrait and one recording become an MP4.",
        },
        "paths": paths,
        "components": {
            "schemas": schemas(templates),
            "securitySchemes": {
                "key": {"type": "http", "scheme": "bearer", "description": "An API key, sq_..."},
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(operation: Operation) -> dict[str, Any]:
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^(?:{PATTERNS.get(name, ID.pattern)})$"},
        }
        for name in operation.path_fields
    ]
    if operation.labels:
        schema = {"type": "object", "additionalProperties": {"type": "string"}}
        parameters.append({"name": operation.labels, "in": "query", "style": "deepObject", "schema": schema})
    for place, fields in (("query", operation.query), ("header", operation.headers)):
        parameters += [
            {"name": one.name, "in": place, "description": one.meaning, "schema": one.described()} for one in fields
        ]
    found: dict[str, Any] = {
        "operationId": operation.name,
        "summary": operation.summary,
        "parameters": parameters,
        "responses": {str(answer.status): _answer(answer) for answer in operation.answers} | _problems(operation),
    }
    if operation.body:
        content = {kind: {"schema": _reference(name)} for kind, name in operation.body.items()}
        found["requestBody"] = {"required": True, "content": content}
    found["security"] = [{"key": []}, {"header": []}] if operation.scope else []
    if operation.name == UNLOCKED:
        found["security"].append({})
    return found


def _answer(answer: Answer) -> dict[str, Any]:
    found: dict[str, Any] = {"description": answer.meaning}
    if answer.schema:
        found["content"] = {answer.content: {"schema": _reference(answer.schema)}}
    elif answer.content != JSON:
        kind = {"schema": TEXT if answer.content.startswith("text") else {}}
        found["content"] = dict.fromkeys((answer.content, *answer.also), kind)
    if answer.headers:
        found["headers"] = {name: {"schema": TEXT} for name in answer.headers}
    return found


def _problems(operation: Operation) -> dict[str, Any]:
    """The problems that an operation may answer with, by their status."""
    kinds = {"bad-request", "internal", "unavailable", *operation.problems}
    kinds |= {"unauthorized", "forbidden", "too-many-requests"} if operation.scope else set()
    kinds |= {"not-found"} if operation.path_fields else set()
    kinds |= {"invalid"}
    titles: dict[int, list[str]] = {}
    if operation.of_comfy:
        titles, content = statuses_of(kinds), {JSON: {"schema": _reference("ComfyError")}}
    else:
        for kind in KINDS:
            if kind in kinds:
                titles.setdefault(KINDS[kind][0], []).append(KINDS[kind][1])
        content = {PROBLEM: {"schema": _reference("Problem")}}
    if operation.method == "HEAD":
        return {str(status): {"description": "; ".join(said)} for status, said in titles.items()}
    return {str(status): {"description": "; ".join(said), "content": content} for status, said in titles.items()}


def _reference(name: str) -> Schema:
    return {"$ref": f"#/components/schemas/{name}"}


def schemas(templates: Mapping[str, Template]) -> dict[str, Schema]:
    """Every schema by its name."""
    configs = {f"Config_{name}": _config(template) for name, template in templates.items()}
    task = _with_config(schema_of(TASK), list(configs))
    task["anyOf"] = [{"required": ["image"]}, {"required": ["image_url"]}]
    in_batch = _with_config(schema_of(TASK_OF_BATCH), list(configs))
    batch = schema_of(BATCH)
    batch["properties"]["tasks"]["items"] = in_batch
    form = schema_of(tuple(one for one in TASK if one.name != "config"))
    form["properties"] |= {"config": TEXT | {"description": "JSON"}} | dict.fromkeys(FILES, FILE)
    batch_form = schema_of(tuple(one for one in DEFAULTS if one.name != "config"))
    batch_form["properties"] |= {"config": TEXT | {"description": "JSON, for every task"}, "archive": FILE}
    batch_form["required"] = ["archive"]
    task_view = schema_of(TASK_VIEW)
    result = schema_of(RESULT_VIEW)
    task_view["properties"]["result"] = {"anyOf": [result, {"type": "null"}]}
    return {
        "NewTask": task,
        "NewTaskForm": form,
        "NewBatch": batch,
        "NewBatchForm": batch_form,
        "Zip": FILE,
        "Task": task_view,
        "TaskList": _object({"tasks": _list("Task"), "next": {"type": ["string", "null"]}}),
        "Dead": _object({"tasks": _list("Task")}),
        "Accepted": _object(
            {
                "task_id": TEXT,
                "status": {"const": "accepted"},
                "repeated": {"type": "boolean", "description": "the same request came before; this is its task"},
                "warnings": TEXTS,
                "links": LINKS,
            }
        ),
        "Retried": _object({"task_id": TEXT, "status": {"const": "accepted"}, "links": LINKS}),
        "Cancelled": _object({"task_id": TEXT, "status": {"enum": ["cancelled", "cancelling"]}}),
        "BatchAccepted": _object(
            {
                "batch_id": TEXT,
                "status": {"const": "accepted"},
                "repeated": {"type": "boolean"},
                "task_ids": TEXTS,
                "warnings": {"type": "array", "items": _object({"task_id": TEXT, "warning": TEXT})},
                "left_out": {"type": "array", "items": _object({"file": TEXT, "reason": TEXT})},
                "links": LINKS,
            }
        ),
        "Batch": _object({"batch_id": TEXT, **dict.fromkeys((*COUNTS, "unended"), COUNT), "links": LINKS}),
        "BatchList": _object({"batches": _list("BatchListed"), "next": {"type": ["string", "null"]}}),
        "BatchListed": _object(
            {"batch_id": TEXT, **dict.fromkeys((*COUNTS, "unended"), COUNT), "links": LINKS, "submitted_at": TEXT}
        ),
        "Link": _object({"url": TEXT, "elsewhere": {"type": "boolean"}}),
        "Dropped": _object({"task_id": TEXT, "status": {"const": "dropped"}}),
        "Drained": _object({"instance": TEXT, "draining": {"type": "boolean"}, "running": TEXTS}),
        "BatchCancelled": _object({"batch_id": TEXT, "cancelled": COUNT, "cancelling": COUNT, "others": COUNT}),
        "Queue": _object(
            {
                "waiting": {"type": "object", "additionalProperties": COUNT_BY_NAME},
                "oldest": {"type": "object", "additionalProperties": {"type": "object", "additionalProperties": TEXT}},
                **dict.fromkeys(("queued", "running", "retrying", "dead"), COUNT),
                "totals": {"type": "object", "additionalProperties": {"type": "integer"}},
                "alerts": TEXTS,
            }
        ),
        "Instances": _object(
            {
                "instances": {
                    "type": "array",
                    "items": {"type": "object", "properties": {**{name: {} for name in INSTANCE}, **OF_CARD}},
                }
            }
        ),
        "Autoscale": _object(
            {
                "tiers": {"type": "object", "additionalProperties": LOAD},
                "total": LOAD,
                "instances": {"type": "array", "items": _object({"name": TEXT, "busy": {"type": "boolean"}})},
            }
        ),
        "Status": _object({"status": TEXT}),
        "Problem": {
            "type": "object",
            "properties": {
                "type": {"enum": [f"urn:sonic-queue:problem:{kind}" for kind in KINDS]},
                "title": TEXT,
                "status": {"type": "integer"},
                "detail": TEXT,
            },
            "required": ["type", "title", "status", "detail"],
        },
        **comfy_schemas(),
        **configs,
    }


def _object(properties: Mapping[str, Schema]) -> Schema:
    fixed = {"required": list(properties), "additionalProperties": False}
    return {"type": "object", "properties": dict(properties), **fixed}


LOAD = _object(dict.fromkeys(("waiting", "running", "instances", "desired"), COUNT))


def _list(name: str) -> Schema:
    return {"type": "array", "items": _reference(name)}


def _with_config(schema: Schema, configs: Sequence[str]) -> Schema:
    field = next(one for one in TASK if one.name == "config")
    said = {"description": f"{field.meaning}; each template has its own"}
    schema["properties"]["config"] = {"anyOf": [_reference(name) for name in configs]} | said
    return schema


def _config(template: Template) -> Schema:
    properties = {name: _parameter(one) for name, one in sorted(template.parameters.items())}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _parameter(one: Parameter) -> Schema:
    found: Schema = {"type": JSON_TYPES[one.type], "default": one.default}
    for name, value in (("minimum", one.minimum), ("maximum", one.maximum), ("multipleOf", one.multiple_of)):
        if value is not None:
            found[name] = value
    if one.choices:
        found["enum"] = list(one.choices)
    return found
