"""Orders become jobs: checked against their template, each with a key by which the same order finds its job again."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from ..errors import FileUnreachable, JobError
from ..intake.orders import Order
from ..intake.pairing import LeftOut
from ..job import DEFAULT_TEMPLATE, RAW, JobSpec, Priority, Value, new_job_id
from ..queue.queue_view import QueueView
from ..queue.store import Store, Submission
from ..retry import FailureKind
from ..states import State
from ..tiers import tier_of
from .raw_prompt import check_classes, lane_values
from .templates import Template, template_named

DEFAULT_RESOLUTION = 512  # of a template that has no such parameter: the lane of every instance

Found = Literal["made", "known", "restarted", "there"]


@dataclass(frozen=True)
class Defaults:
    """What holds for every order that says nothing else; '' for none. again: make even what is there."""

    config: Mapping[str, Value] = field(default_factory=dict)
    priority: Priority = "normal"
    workflow: str = DEFAULT_TEMPLATE
    batch: str = ""
    again: bool = False
    consent_id: str = ""
    callback: str = ""
    traceparent: str = ""


@dataclass(frozen=True)
class Tracked:
    """One order and its job. found: made now, known from before, restarted, or its video is there (no job)."""

    order: Order
    task_id: str
    found: Found
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Submitted:
    """tracked: in the order of the orders. left_out: orders whose parameters are refused."""

    tracked: tuple[Tracked, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class CheckedJob:
    """A job that can be queued. values: every parameter of its template. warnings: sentences."""

    submission: Submission
    values: Mapping[str, Value]
    warnings: tuple[str, ...]


def checked_job(
    fields: Mapping[str, Any], templates: Mapping[str, Template], raw_nodes: Collection[str] = ()
) -> CheckedJob:
    """A job as a client wrote it, whichever way it came. Raises BadJob, BadWorkflow or TemplateError.

    raw_nodes: the node classes of which a job's own prompt may consist.
    """
    spec = JobSpec.parse(fields)
    if spec.workflow == RAW:
        check_classes(spec.prompt, raw_nodes)
        return _with_lane(spec, lane_values(spec.prompt), ())
    values, warnings = template_named(templates, spec.workflow).check(spec.config)
    return _with_lane(spec, values, warnings)


def _with_lane(spec: JobSpec, values: Mapping[str, Any], warnings: Sequence[str]) -> CheckedJob:
    tier = tier_of(int(values.get("resolution", DEFAULT_RESOLUTION)))
    return CheckedJob(Submission(spec, tier, str(values.get("engine", "auto"))), values, tuple(warnings))


@dataclass(frozen=True)
class _Checked:
    order: Order
    submission: Submission
    warnings: tuple[str, ...]


async def submit_orders(
    orders: Sequence[Order], store: Store, view: QueueView, templates: Mapping[str, Template], defaults: Defaults
) -> Submitted:
    """Queue what is missing. Safe to repeat: the same order leads to the same job.

    A job that has completed is made again only when its video is gone; one that has failed is put back, unless its
    material was at fault, since that is the same as before.
    """
    checked, left_out = _check_all(orders, templates, defaults)
    tracked: dict[int, Tracked] = {}
    wanted: list[tuple[int, _Checked]] = []
    for number, one in enumerate(checked):
        known = await store.known(one.submission.idempotency_key)
        if known is None and not defaults.again and _is_up_to_date(one.order):
            tracked[number] = Tracked(one.order, "", "there", one.warnings)
        else:
            wanted.append((number, one))
    answers = await store.submit([one.submission for _, one in wanted], again=defaults.again)
    for (number, one), answer in zip(wanted, answers, strict=True):
        task_id: str = answer.task_id
        found: Found = "made"
        if not answer.made:
            task_id, found = await _revive(one, answer.task_id, store, view)
        tracked[number] = Tracked(one.order, task_id, found, one.warnings)
    return Submitted(tuple(tracked[number] for number in sorted(tracked)), tuple(left_out))


async def _revive(one: _Checked, task_id: str, store: Store, view: QueueView) -> tuple[str, Found]:
    """What to do with the job that an earlier submission of the same order made."""
    record = await view.job(task_id)
    if record is None or (record.state is State.COMPLETED and not one.order.output.is_file()):
        answer = (await store.submit([one.submission], again=True))[0]
        return answer.task_id, "made" if answer.made else "known"
    may_pass = record.error_kind != FailureKind.BAD_INPUT
    if record.state is State.CANCELLED or (record.state is State.FAILED and may_pass):
        await store.restart(task_id)
        return task_id, "restarted"
    return task_id, "known"


def make_output_folder(folder: Path | None) -> None:
    """Make the folder for the videos, when one is named; to an instance it would look like a drive that is away.

    Raises FileUnreachable.
    """
    if folder:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise FileUnreachable(f"The output folder '{folder}' cannot be made: {error.strerror or error}.") from error


def _check_all(
    orders: Iterable[Order], templates: Mapping[str, Template], defaults: Defaults
) -> tuple[list[_Checked], list[LeftOut]]:
    checked, left_out = [], []
    digests: dict[Path, str] = {}
    for order in orders:
        try:
            checked.append(_check(order, templates, defaults, digests))
        except JobError as error:
            left_out.append(LeftOut(order.voice, str(error)))
        except OSError as error:
            left_out.append(LeftOut(order.voice, f"'{error.filename}' cannot be read: {error.strerror or error}."))
    return checked, left_out


def _check(order: Order, templates: Mapping[str, Template], defaults: Defaults, digests: dict[Path, str]) -> _Checked:
    checked = checked_job(
        {
            "task_id": new_job_id(),
            "name": order.name,
            "image": order.portrait.as_uri(),
            "audio": order.voice.as_uri(),
            "output": order.output.as_uri(),
            "config": {**defaults.config, **order.config},
            "priority": order.priority or defaults.priority,
            "workflow": order.template or defaults.workflow,
            "batch": defaults.batch,
            "consent_id": order.consent_id or defaults.consent_id,
            "callback": defaults.callback,
            "traceparent": defaults.traceparent,
        },
        templates,
    )
    spec = checked.submission.spec
    key = _key(order, spec.workflow, checked.values, spec.consent_id, digests)
    return _Checked(order, replace(checked.submission, idempotency_key=key), checked.warnings)


def _key(order: Order, template: str, values: Mapping[str, Any], consent_id: str, digests: dict[Path, str]) -> str:
    """The same for the same material, parameters, place of the video and consent, whatever the files' dates are."""
    for path in (order.portrait, order.voice):
        if path not in digests:
            with path.open("rb") as file:
                digests[path] = hashlib.file_digest(file, "sha256").hexdigest()
    what = [digests[order.portrait], digests[order.voice], str(order.output), template, dict(values)]
    what += [consent_id] if consent_id else []
    return hashlib.sha256(json.dumps(what, sort_keys=True).encode()).hexdigest()


def _is_up_to_date(order: Order) -> bool:
    """True when the video is there and not older than what it is made of."""
    try:
        made = order.output.stat().st_mtime
        return all(path.stat().st_mtime <= made for path in (order.portrait, order.voice))
    except OSError:
        return False


def counts_line(submitted: Submitted) -> str:
    """How many orders led to a job, and how many did not need one, as a sentence."""
    words = {"made": "queued", "known": "known already", "restarted": "put back", "there": "there already"}
    counts = {word: sum(t.found == found for t in submitted.tracked) for found, word in words.items()}
    parts = [f"{count} {word}" for word, count in counts.items() if count]
    hint = "; --again makes anew what is there" if counts["known already"] or counts["there already"] else ""
    return (", ".join(parts) or "nothing queued") + hint + "."
