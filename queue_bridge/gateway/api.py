"""Every operation of the gateway, in the order in which its description lists them."""

from __future__ import annotations

from . import autoscale, batches, exposition, followers, health, queue_info, result_download, tasks, thumbnails, watch
from .new_tasks import IDEMPOTENCY_KEY, TRACEPARENT
from .operations import JSON, MULTIPART, Answer, Operation

TEXT_EVENTS = "text/event-stream"
LAST_EVENT = followers.LAST_EVENT
RANGE = result_download.HEADERS
ACCEPTED = Answer(202, "in the queue", "Accepted", headers=("Location",))
BATCH_ACCEPTED = Answer(202, "in the queue", "BatchAccepted", headers=("Location",))
EVENTS = (
    Answer(200, "events `snapshot`, `change` and `end`, each with JSON", content=TEXT_EVENTS),
    Answer(204, "nothing has happened since Last-Event-ID, and nothing will"),
)
VIDEO = (
    Answer(200, "the video; a ZIP of a prompt without a template", content="video/mp4", also=(batches.ZIP,)),
    Answer(206, "a part of it", content="video/mp4", also=(batches.ZIP,), headers=("Content-Range",)),
    Answer(302, "it lies elsewhere", headers=("Location",)),
    Answer(304, "unchanged"),
)
NO_VIDEO = ("not-finished", "gone", "precondition-failed", "range")
WRITES = (
    *("bad-request", "too-slow", "too-large", "unsupported-media-type", "invalid", "conflict", "no-room"),
    *("idempotency-key-reused", "backlog-full"),
)

OPERATIONS = (
    Operation(
        "createTask", "POST", "/v1/tasks", tasks.create_task, "submit", "Submit a task.", (ACCEPTED,),
        headers=(IDEMPOTENCY_KEY, TRACEPARENT), body={JSON: "NewTask", MULTIPART: "NewTaskForm"}, problems=WRITES,
    ),
    Operation(
        "listTasks", "GET", "/v1/tasks", tasks.list_tasks, "read", "List tasks, the latest first.",
        (Answer(200, "a page; it may be short or empty while `next` is there", "TaskList"),), query=tasks.LIST,
    ),
    Operation(
        "getTask", "GET", "/v1/tasks/{task_id}", tasks.show_task, "read", "Look at a task.",
        (Answer(200, "the task", "Task"),),
    ),
    Operation(
        "cancelTask", "DELETE", "/v1/tasks/{task_id}", tasks.cancel_task, "submit", "Cancel a task.",
        (Answer(200, "cancelled", "Cancelled"), Answer(202, "its server is told to end it", "Cancelled")),
        problems=("conflict",),
    ),
    Operation(
        "retryTask", "POST", "/v1/tasks/{task_id}/retry", tasks.retry_task, "submit",
        "Start a failed or cancelled task again.", (Answer(202, "in the queue", "Retried", headers=("Location",)),),
        problems=("conflict",),
    ),
    Operation(
        "followTask", "GET", "/v1/tasks/{task_id}/events", followers.task_events, "read",
        "Follow a task to its end (server-sent events).", EVENTS, headers=(LAST_EVENT,),
    ),
    Operation(
        "getResult", "GET", "/v1/tasks/{task_id}/result", result_download.download_result, "read",
        "Download the video.", VIDEO, headers=RANGE, problems=NO_VIDEO,
    ),
    Operation(
        "headResult", "HEAD", "/v1/tasks/{task_id}/result", result_download.download_result, "read",
        "The same without the video.", tuple(Answer(one.status, one.meaning, headers=one.headers) for one in VIDEO),
        headers=RANGE, problems=NO_VIDEO,
    ),
    Operation(
        "getResultLink", "GET", "/v1/tasks/{task_id}/link", result_download.show_link, "read",
        "Where the video is fetched; elsewhere without a key, for ten minutes.", (Answer(200, "its address", "Link"),),
        problems=("not-finished", "gone"),
    ),
    Operation(
        "getThumbnail", "GET", "/v1/tasks/{task_id}/thumbnail", thumbnails.show_thumbnail, "read",
        "A small picture of the portrait.",
        (Answer(200, "a JPEG", content="image/jpeg"), Answer(304, "unchanged")),
        headers=tuple(one for one in RANGE if one.name == "If-None-Match"),
    ),
    Operation(
        "createBatch", "POST", "/v1/batches", batches.create_batch, "submit", "Submit many tasks at once.",
        (BATCH_ACCEPTED,), headers=(IDEMPOTENCY_KEY, TRACEPARENT),
        body={JSON: "NewBatch", MULTIPART: "NewBatchForm", batches.ZIP: "Zip"}, problems=WRITES,
    ),
    Operation(
        "listBatches", "GET", "/v1/batches", batches.list_batches, "read",
        "List batches, the latest first.", (Answer(200, "a page", "BatchList"),), query=batches.LIST,
    ),
    Operation(
        "getBatch", "GET", "/v1/batches/{batch_id}", batches.show_batch, "read", "Look at a batch.",
        (Answer(200, "its counts", "Batch"),),
    ),
    Operation(
        "cancelBatch", "DELETE", "/v1/batches/{batch_id}", batches.cancel_batch, "submit",
        "Cancel what has not ended of a batch.", (Answer(200, "what became of it", "BatchCancelled"),),
    ),
    Operation(
        "followBatch", "GET", "/v1/batches/{batch_id}/events", followers.batch_events, "read",
        "Follow a batch to its end (server-sent events).", EVENTS, headers=(LAST_EVENT,),
    ),
    Operation(
        "getQueue", "GET", "/v1/queue", queue_info.show_queue, "read", "How many tasks are where.",
        (Answer(200, "counts, waiting ones by class and lane", "Queue"),),
    ),
    Operation(
        "listInstances", "GET", "/v1/instances", queue_info.show_instances, "read", "Who takes tasks now.",
        (Answer(200, "the ComfyUI servers", "Instances"),),
    ),
    Operation(
        "listDead", "GET", "/v1/dead", queue_info.show_dead, "read", "The dead letter: tasks that are not tried again.",
        (Answer(200, "tasks, the latest first", "Dead"),), query=queue_info.DEAD,
    ),
    Operation(
        "dropDead", "DELETE", "/v1/dead/{task_id}", queue_info.drop_dead, "submit",
        "Take a task out of the dead letter; it stays failed.", (Answer(200, "dropped", "Dropped"),),
        problems=("conflict",),
    ),
    Operation(
        "drainInstance", "POST", "/v1/instances/{instance}/drain", queue_info.drain_instance, "admin",
        "Let an instance take no new task.", (Answer(200, "what it still runs", "Drained"),),
    ),
    Operation(
        "undrainInstance", "DELETE", "/v1/instances/{instance}/drain", queue_info.undrain_instance, "admin",
        "Let it take tasks again.", (Answer(200, "it does", "Drained"),),
    ),
    Operation(
        "watch", "GET", "/v1/events", watch.watch_events, "read",
        "Follow everything that the key may see (server-sent events).",
        (Answer(200, "events `snapshot`, `changes`, `queue`, `instances`, `away`, with JSON", content=TEXT_EVENTS),),
        headers=(LAST_EVENT,),
    ),
    Operation(
        "metrics", "GET", "/metrics", exposition.metrics, "read", "Figures for Prometheus; no key on this machine.",
        (Answer(200, "Prometheus' text format", content="text/plain"),),
    ),
    Operation(
        "autoscale", "GET", "/autoscale", autoscale.autoscale, "read", "How many instances the queue could use.",
        (Answer(200, "by tier, and in all", "Autoscale"),), query=autoscale.AUTOSCALE,
    ),
    Operation(
        "healthz", "GET", "/healthz", health.healthz, "", "Whether the gateway lives.",
        (Answer(200, "it does", "Status"),),
    ),
    Operation(
        "readyz", "GET", "/readyz", health.readyz, "", "Whether it can take tasks.", (Answer(200, "it can", "Status"),),
    ),
)  # fmt: skip
