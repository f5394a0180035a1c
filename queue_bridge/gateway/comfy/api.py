"""The operations of the Comfy API, by the names that its contract has for them."""

from __future__ import annotations

from .. import health
from ..api import TEXT_EVENTS
from ..new_tasks import IDEMPOTENCY_KEY, TRACEPARENT
from ..operations import JSON, MULTIPART, Answer, Operation
from ..result_download import HEADERS
from . import assets, job_events, jobs

ASSET = Answer(200, "the file", "ComfyAsset")
MADE = (Answer(201, "made", "ComfyAsset"), Answer(200, "made over bytes that were here", "ComfyAsset"))
BODY = ("bad-request", "too-slow", "too-large", "unsupported-media-type", "invalid")
CONTENT = (
    Answer(200, "the bytes, of the type that their upload named", content="*/*"),
    Answer(206, "a part of them", content="*/*", headers=("Content-Range",)),
    Answer(302, "they lie elsewhere", headers=("Location",)),
    Answer(304, "unchanged"),
)

COMFY_OPERATIONS = (
    Operation(
        "postAssets", "POST", "/api/v2/assets", assets.post_asset, "submit", "Upload a file.", MADE,
        headers=(IDEMPOTENCY_KEY,), body={MULTIPART: "ComfyNewAsset"},
        problems=(*BODY, "no-room", "hash_mismatch", "idempotency-key-reused"),
    ),
    Operation(
        "listAssets", "GET", "/api/v2/assets", assets.list_assets, "read", "Uploaded files, the last used first.",
        (Answer(200, "the files", "ComfyAssetList"),), query=assets.LIST,
    ),
    Operation(
        "assetFromHash", "POST", "/api/v2/assets/from-hash", assets.asset_from_hash, "submit",
        "Another file over bytes that were uploaded before.", MADE, body={JSON: "ComfyFromHash"},
        problems=(*BODY, "blob_not_found"),
    ),
    Operation(
        "headAssetByHash", "HEAD", "/api/v2/assets/by-hash/{hash}", assets.head_by_hash, "submit",
        "Whether these bytes were uploaded before.", (Answer(200, "they were"),), problems=("blob_not_found",),
    ),
    Operation(
        "getAsset", "GET", "/api/v2/assets/{asset_id}", assets.get_asset, "read", "Look at a file.", (ASSET,),
    ),
    Operation(
        "deleteAsset", "DELETE", "/api/v2/assets/{asset_id}", assets.delete_asset, "submit", "Delete an upload.",
        (Answer(204, "it is gone"),), problems=("asset_in_use",),
    ),
    Operation(
        "getAssetContent", "GET", "/api/v2/assets/{asset_id}/content", assets.get_content, "read",
        "Download a file, or a part of it.", CONTENT, headers=HEADERS,
        problems=("gone", "precondition-failed", "range"),
    ),
    Operation(
        "postJobs", "POST", "/api/v2/jobs", jobs.create_job, "submit", "Submit a workflow.",
        (Answer(201, "in the queue", "ComfyJob", headers=("Location", "Idempotency-Replayed")),),
        headers=(IDEMPOTENCY_KEY, TRACEPARENT), body={JSON: "ComfyNewJob"},
        problems=(
            *BODY, "invalid_workflow", "workflow_format_ui", "missing_asset", "metadata_invalid",
            "extra_data_not_supported", "idempotency-key-reused", "backlog-full", "no-room",
        ),
    ),
    Operation(
        "listJobs", "GET", "/api/v2/jobs", jobs.list_jobs, "read", "List jobs, the latest first.",
        (Answer(200, "a page; it may be short or empty while `next_cursor` is there", "ComfyJobList"),),
        query=jobs.LIST, labels=jobs.LABELS, problems=("invalid_cursor", "invalid_metadata_filter"),
    ),
    Operation(
        "getJob", "GET", "/api/v2/jobs/{task_id}", jobs.get_job, "read", "Look at a job.",
        (Answer(200, "the job", "ComfyJob"),),
    ),
    Operation(
        "getJobWorkflow", "GET", "/api/v2/jobs/{task_id}/workflow", jobs.get_workflow, "read",
        "The workflow behind a job.", (Answer(200, "as it came", "ComfyWorkflow"),),
    ),
    Operation(
        "getJobEvents", "GET", "/api/v2/jobs/{task_id}/events", job_events.job_events, "read",
        "Follow a job to its end (server-sent events).",
        (Answer(200, "events `status`, `progress`, `log` and `output`, each with JSON", content=TEXT_EVENTS),),
    ),
    Operation(
        "cancelJob", "POST", "/api/v2/jobs/{task_id}/cancel", jobs.cancel_job, "submit", "Cancel a job.",
        (Answer(200, "the job", "ComfyJob"),),
    ),
    Operation(
        "getHealth", "GET", "/api/v2/health", health.healthz, "", "Whether the gateway lives.",
        (Answer(200, "it does", "Status"),),
    ),
)  # fmt: skip
