"""The command ``sonic-queue``: submit, run, status, list, watch, cancel, dead, drain, template, webhooks, notify,
gateway, keys, plan, fleet, serve-redis.

Exit status: 0 when all is well (``submit`` and ``watch``: every job completed), 1 when a job did not, or the queue or
the material cannot be used, 2 for a wrong argument, 130 after Ctrl-C, which leaves the jobs in the queue.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import signal
import sys
import uuid
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from rich.console import Console

from .commands.fleet_command import add_fleet_command, fleet, fleet_restart, fleet_status
from .commands.operator_commands import add_operator_commands, cancel, dead, drain
from .commands.outcomes import HEADS, as_json, every_job_completed, rows_of, summary
from .commands.plan_command import add_plan_command, plan_fleet
from .commands.run_one import add_run_command, check_files, run_one
from .commands.show_jobs import show_until_ended
from .commands.template_commands import add_template_commands
from .commands.webhook_commands import add_webhook_commands, notify, webhooks
from .config import Settings, load_settings
from .console import JobsDisplay, card_in_use, console_for, print_json, print_table
from .database.redis_connection import check_server, connect
from .errors import BadJob, BridgeError, ConfigError
from .execution.unserved import alerts
from .gateway.command import add_gateway_commands, gateway, keys
from .intake.orders import read_orders
from .intake.watch_folder import FolderWatch
from .job import CLASS_OF, DEFAULT_TEMPLATE, JobRecord, Value, checked_callback, checked_consent_id
from .pipelines.submission import Defaults, Submitted, counts_line, make_output_folder, submit_orders
from .pipelines.templates import SHIPPED, Template, load_templates
from .queue.follow import Follower
from .queue.queue_view import QueueView
from .queue.store import Store
from .states import State
from .tracing import PARENT_VARIABLE, NoTracing, Span, Tracing, tracing_for

WATCH_S = 1.0
TRACED = ("submit", "run", "notify", "gateway")

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"
# Adds commands to the command line; each sets the default ``run``, which takes the arguments and gives the exit status.
AddCommands = Callable[[Commands], None]


@dataclass(frozen=True)
class Queue:
    """An open queue for the time of a command. span: the command itself, below which its jobs' spans are."""

    store: Store
    view: QueueView
    templates: Mapping[str, Template]
    tracing: Tracing
    span: Span


def _absolute(text: str) -> Path:
    return Path(text).absolute()


def parser(further: Sequence[AddCommands] = ()) -> argparse.ArgumentParser:
    """The command line; ``further`` puts the caller's commands beside those of the queue."""
    top = argparse.ArgumentParser(prog="sonic-queue", description="Talking-head videos through a durable queue.")
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--url", help="the queue's Redis server (default: SONIC_QUEUE_URL, the config file, REDIS_URL)")
    common.add_argument("--json", action="store_true", help="print JSON instead of text")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")

    submit = commands.add_parser("submit", parents=[common], help="a folder, CSV, JSONL or ZIP into the queue; waits")
    submit.add_argument("source", type=_absolute, help="pictures and recordings")
    submit.add_argument("--output", type=_absolute, help="where the MP4s go (default: beside the recordings)")
    submit.add_argument("--workflow", default=DEFAULT_TEMPLATE, help=f"job template (default: {DEFAULT_TEMPLATE})")
    submit.add_argument("--priority", choices=sorted(CLASS_OF), default="normal")
    submit.add_argument("--resolution", type=int, help="short side of the videos in pixels")
    submit.add_argument("--engine", choices=["auto", "sonic", "draft"])
    submit.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a parameter of the template")
    submit.add_argument("--consent-id", default="", metavar="ID", help="where the consent of the people shown is found")
    submit.add_argument("--callback", default="", metavar="URL", help="is told of each job's end (docs/webhooks.md)")
    submit.add_argument("--again", action="store_true", help="make even what is there")
    submit.add_argument("--no-wait", action="store_true", help="return when the jobs are in the queue")
    submit.add_argument("--watch", action="store_true", help="keep going as files arrive in the folder")

    add_run_command(commands, common)

    status = commands.add_parser("status", parents=[common], help="the queue, or one job")
    status.add_argument("id", nargs="?", help="a job")

    listing = commands.add_parser("list", parents=[common], help="jobs in some states")
    listing.add_argument("--state", action="append", choices=[str(state) for state in State], help="may be repeated")
    listing.add_argument("--limit", type=int, default=50)

    watch = commands.add_parser("watch", parents=[common], help="follow jobs to their end")
    watch.add_argument("ids", nargs="*", metavar="ID", help="jobs (default: all that have not ended)")

    add_operator_commands(commands, common)
    add_webhook_commands(commands, common)
    add_gateway_commands(commands, common)
    add_plan_command(commands, common)

    add_fleet_command(commands, common)

    serve = commands.add_parser("serve-redis", help="run the queue's own database server in this terminal")
    serve.add_argument("--json", action="store_true", help="print JSON instead of text")
    serve.add_argument("--data", type=Path, default=Path("sonic-queue-data"), help="where it keeps its data")
    serve.add_argument("--port", type=int, help="listen on 127.0.0.1 with a password (0: a free port), not on a socket")
    serve.add_argument("--durable", action="store_true", help="on disk before a submission is answered")
    add_template_commands(commands)
    for add in further:
        add(commands)
    return top


def main(
    argv: Sequence[str] | None = None,
    further: Sequence[AddCommands] = (),
    errors: tuple[type[Exception], ...] = (),
    run_here: Callable[[argparse.Namespace], int] | None = None,
) -> int:
    """The command; returns its exit status.

    further: commands beside those of the queue, each with an option --json; errors: what these raise for a person.
    run_here: makes the video of ``run --local``.
    """
    logging.basicConfig(level=logging.WARNING, format="%(message)s", stream=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    arguments = parser(further).parse_args(argv)
    run: Callable[[argparse.Namespace], int] | None = getattr(arguments, "run", None)
    expected: tuple[type[Exception], ...] = (BridgeError, *errors)
    # Started in the background of a shell, SIGINT would be ignored; SIGTERM ends us the same tidy way.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if run:
            return run(arguments)
        if arguments.command == "run" and arguments.local:
            return _locally(arguments, run_here)
        if arguments.command == "fleet":
            return _fleet(arguments)
        if arguments.command == "serve-redis":
            from .commands.serve_redis import serve_redis

            durable = arguments.durable or load_settings().durable
            return serve_redis(arguments.data, arguments.port, durable=durable, as_json=arguments.json)
        return asyncio.run(_with_queue(arguments))
    except expected as error:
        if arguments.json:
            print_json({"error": str(error)})
        else:
            sys.stderr.write(f"{error}\n")
        return 1
    except KeyboardInterrupt:
        stays = not run and arguments.command not in ("run", "notify")
        sys.stderr.write("\nStopped. What is in the queue stays there.\n" if stays else "\nStopped.\n")
        return 128 + signal.SIGINT


def _locally(arguments: argparse.Namespace, run_here: Callable[[argparse.Namespace], int] | None) -> int:
    check_files(arguments)
    named = arguments.comfyui or (os.environ.get("COMFYUI_PATH") if arguments.engine == "sonic" else None)
    if named:
        from .commands.run_in_comfyui import run_in_comfyui

        return run_in_comfyui(arguments, Path(named))
    if arguments.models:
        raise BadJob("--models", "are those of a ComfyUI; name it with --comfyui.")
    if run_here is None:
        raise BadJob("--local", "is there in the whole package only; start it as sonic-queue.")
    return run_here(arguments)


def _fleet(arguments: argparse.Namespace) -> int:
    if arguments.action == "run":
        return fleet(arguments, cli_settings(arguments.url))
    return fleet_status(arguments) if arguments.action == "status" else fleet_restart(arguments)


def cli_settings(url: str | None) -> Settings:
    """The settings for a command: --url, SONIC_QUEUE_URL or the config file, at last REDIS_URL."""
    settings = load_settings(url=url)
    if not settings.url:
        settings = load_settings(url=os.environ.get("REDIS_URL"))
    if not settings.url:
        raise ConfigError("--url", "no queue is named; give its Redis server, or set SONIC_QUEUE_URL.")
    return settings


async def _with_queue(arguments: argparse.Namespace) -> int:
    commands: dict[str, Callable[[argparse.Namespace, Queue], Coroutine[Any, Any, int]]] = {
        "submit": _submit,
        "run": lambda arguments, queue: run_one(arguments, queue.store, queue.view, queue.templates, queue.span),
        "status": _status,
        "list": _list,
        "watch": _watch,
        "cancel": lambda arguments, queue: cancel(arguments, queue.store, queue.view),
        "dead": lambda arguments, queue: dead(arguments, queue.store, queue.view),
        "drain": lambda arguments, queue: drain(arguments, queue.store),
        "webhooks": lambda arguments, queue: webhooks(arguments, queue.store),
        "notify": lambda arguments, queue: notify(arguments, queue.store, queue.view, queue.tracing),
        "gateway": lambda arguments, queue: gateway(arguments, queue.store, queue.view, queue.templates, queue.tracing),
        "plan": lambda arguments, queue: plan_fleet(arguments, queue.view),
        "keys": lambda arguments, queue: keys(arguments, queue.store),
    }
    settings = cli_settings(arguments.url)
    templates = load_templates((SHIPPED, *settings.templates))
    store = Store(connect(settings.url, many=arguments.command == "gateway"), settings)
    tracing = _tracing(arguments.command, settings)
    submits = arguments.command in ("submit", "run")
    span = (tracing if submits else NoTracing()).start("submit", os.environ.get(PARENT_VARIABLE, ""), "producer")
    try:
        await check_server(store.client, settings.url)
        queue = Queue(store, QueueView(store.client, store.keys, settings.url), templates, tracing, span)
        return await commands[arguments.command](arguments, queue)
    finally:
        span.end()
        await store.close()
        await asyncio.to_thread(tracing.close)


def _tracing(command: str, settings: Settings) -> Tracing:
    """Where a command's spans go; most make none."""
    if command == "gateway":
        logging.getLogger("sonic.tracing").setLevel(logging.INFO)
    return tracing_for(settings, f"sonic-{command}") if command in TRACED else NoTracing()


# --- submit ----------------------------------------------------------------------------------------------------------


async def _submit(arguments: argparse.Namespace, queue: Queue) -> int:
    defaults = Defaults(
        _config(arguments),
        arguments.priority,
        arguments.workflow,
        _batch_id(),
        arguments.again,
        checked_consent_id(arguments.consent_id),
        checked_callback(arguments.callback),
        queue.span.traceparent,
    )
    if arguments.watch:
        return await _submit_as_files_arrive(arguments, queue, defaults)
    console = console_for(sys.stderr if arguments.json else None)
    make_output_folder(arguments.output)
    orders = await asyncio.to_thread(read_orders, arguments.source, arguments.output)
    for item in orders.left_out:  # before anything is queued
        console.print(f"left out: {item.path.name}: {item.reason}")
    after = await queue.view.last_event()
    submitted = await submit_orders(orders.orders, queue.store, queue.view, queue.templates, defaults)
    _say_what_was_found(submitted, console)
    left_out = [*orders.left_out, *submitted.left_out]
    if not submitted.tracked:
        raise BadJob("source", f"there is nothing to make a video of in '{arguments.source}'.")
    names = {tracked.task_id: tracked.order.name for tracked in submitted.tracked if tracked.task_id}
    if arguments.no_wait:
        records = await queue.view.jobs(sorted(names))
    else:
        records = await show_until_ended(queue.view, names, after, console)
    rows = rows_of(submitted, left_out, records)
    if arguments.json:
        print_json({"batch": defaults.batch, **as_json(submitted, left_out, records)})
    elif not arguments.no_wait:
        print_table(console, HEADS, [row.cells() for row in rows])
        console.print(summary(rows))
    return 0 if arguments.no_wait or every_job_completed(rows) else 1


def _say_what_was_found(submitted: Submitted, console: Console) -> None:
    for item in submitted.left_out:
        console.print(f"left out: {item.path.name}: {item.reason}")
    for tracked in submitted.tracked:
        for warning in tracked.warnings:
            console.print(f"{tracked.order.name}: {warning}")
    if submitted.tracked:
        console.print(counts_line(submitted))


async def _submit_as_files_arrive(arguments: argparse.Namespace, queue: Queue, defaults: Defaults) -> int:
    console = console_for(sys.stderr if arguments.json else None)
    make_output_folder(arguments.output)
    follower = Follower(queue.view, await queue.view.last_event())
    watch = FolderWatch(arguments.source, arguments.output)
    console.print(f"Watching {arguments.source}; Ctrl-C ends this, not the jobs.")
    with JobsDisplay(console) as display:
        while True:
            arrived = await asyncio.to_thread(watch.settled)
            if arrived:
                submitted = await submit_orders(arrived, queue.store, queue.view, queue.templates, defaults)
                _say_what_was_found(submitted, console)
                names = {t.task_id: t.order.name for t in submitted.tracked if t.task_id}
                follower.add(names)
                display.add(names)
            if not follower.live:
                await asyncio.sleep(WATCH_S)
                continue
            async for changed in follower.changes():
                for record in changed:
                    display.update(record)
                    if arguments.json and record.state.is_terminal:
                        print_json(record.to_dict())
                break


def _config(arguments: argparse.Namespace) -> dict[str, Value]:
    """Parameters from --resolution, --engine and --set, the numbers among them as numbers."""
    config: dict[str, Value] = {}
    for text in arguments.set:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise BadJob("--set", f"'{text}' is not NAME=VALUE.")
        config[name] = _value(value)
    for name in ("resolution", "engine"):
        if (value := getattr(arguments, name)) is not None:
            config[name] = value
    return config


def _value(text: str) -> Value:
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, bool | int | float) else text


def _batch_id() -> str:
    return f"batch_{uuid.uuid4().hex[:12]}"


# --- looking ---------------------------------------------------------------------------------------------------------


async def _status(arguments: argparse.Namespace, queue: Queue) -> int:
    if arguments.id:
        record = await queue.view.job(arguments.id)
        if record is None:
            raise BadJob("id", f"there is no job '{arguments.id}' in this queue, or it is no longer kept.")
        if arguments.json:
            print_json(record.to_dict())
        else:
            _print_job(record)
        return 0
    counts, instances = await queue.view.counts(), await queue.view.instances()
    away = sorted(set(await queue.view.draining()) - {one["name"] for one in instances})
    said = list(alerts(counts.waiting, instances).values())
    said += [f"{one['name']}: {sentence}" for one in instances for sentence in one.get("storage", {}).values()]
    if arguments.json:
        found = {**counts.__dict__, "queued": counts.queued, "instances": instances}
        print_json({**found, "draining_away": away, "alerts": said})
        return 0
    console = console_for()
    console.print(
        f"{counts.queued} queued, {counts.running} running, {counts.retrying} waiting for a retry, "
        f"{counts.dead} in the dead letter; so far {counts.totals.get('completed', 0)} completed, "
        f"{counts.totals.get('failed', 0)} failed."
    )
    for job_class, lanes in counts.waiting.items():
        for lane, count in lanes.items():
            if count:
                console.print(f"  {job_class} {lane}: {count}")
    if not instances:
        console.print("No ComfyUI takes jobs from this queue now.")
    else:
        rows = [
            (one["name"], ", ".join(map(str, one.get("tiers", ()))), ", ".join(one.get("engines", ())),
             one.get("device", ""), card_in_use(one), one.get("running", ""),
             one.get("unhealthy") or ("draining" if one["draining"] else ""))
            for one in instances
        ]  # fmt: skip
        print_table(console, ("instance", "tiers", "engines", "device", "in use", "running", ""), rows)
    for sentence in said:
        console.print(sentence)
    if away:
        console.print(f"Not running, and to take no job when started again: {', '.join(away)}.")
    return 0


def _print_job(record: JobRecord) -> None:
    console = console_for()
    state = f"{record.state}, being cancelled" if record.cancelling else str(record.state)
    console.print(f"{record.task_id}  {state}  {record.percent:.0f} %  {record.stage}".rstrip())
    shown = record.to_dict()
    for name in ("image", "audio", "output"):
        console.print(f"  {name}: {shown[name]}")
    if record.spec.consent_id:
        console.print(f"  consent: {record.spec.consent_id}")
    for entry in record.history:
        console.print(f"  attempt {entry['attempt']} on {entry['instance']}: {entry['kind']}: {entry['error']}")
    if record.error:
        console.print(f"  error: {record.error}")
    if record.result:
        console.print(f"  engine: {record.result.get('report', {}).get('engine', '?')}")


async def _list(arguments: argparse.Namespace, queue: Queue) -> int:
    states = [State(name) for name in arguments.state or State]
    ids = await queue.view.ids(states, arguments.limit)
    records = await queue.view.jobs(ids)
    found = [records[task_id] for task_id in ids if task_id in records]
    if arguments.json:
        print_json([record.to_dict() for record in found])
        return 0
    rows = [(r.task_id, str(r.state), f"{r.percent:.0f} %", r.spec.priority, r.spec.name, r.error) for r in found]
    print_table(console_for(), ("id", "state", "", "priority", "name", "error"), rows)
    return 0


async def _watch(arguments: argparse.Namespace, queue: Queue) -> int:
    after = await queue.view.last_event()
    live = [State.QUEUED, State.RUNNING, State.RETRYING]
    ids = arguments.ids or await queue.view.ids(live, 100_000)
    known = await queue.view.jobs(ids)
    unknown = [task_id for task_id in ids if task_id not in known]
    if unknown:
        raise BadJob("id", f"there is no job '{unknown[0]}' in this queue, or it is no longer kept.")
    names = {task_id: record.spec.name or task_id for task_id, record in known.items()}
    if not arguments.json:
        records = await show_until_ended(queue.view, names, after, console_for())
    else:
        follower = Follower(queue.view, after)
        follower.add(names)
        records = {}
        async for changed in follower.changes():
            for record in changed:
                records[record.task_id] = record
                print_json(record.to_dict())
    return 0 if all(record.state is State.COMPLETED for record in records.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
