"""What an operator does about webhooks and mails: ``sonic-queue notify``, and ``webhooks`` with its actions."""

from __future__ import annotations

import argparse
import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ..console import console_for, print_json, print_table
from ..errors import BadJob, ConfigError
from ..execution.unserved import Unserved
from ..messages.outbox import Delivery, Outbox
from ..oversight.alert_watch import AlertWatch
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import Tracing
from ..web_address import safe_address

STATES = ("pending", "delivered", "failed")
EVERY = 1_000_000
ANSWERS: Mapping[str, str] = MappingProxyType(
    {
        "ok": "is delivered again.",
        "pending": "has not been delivered yet; it is tried now.",
        "missing": "there is no such webhook, or it is no longer kept.",
    }
)


def add_webhook_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line. common: the options that all commands share."""
    commands.add_parser("notify", parents=[common], help="deliver webhooks and mails from here, until Ctrl-C")
    webhooks = commands.add_parser("webhooks", help="messages to other programs at the end of a job")
    actions = webhooks.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="addresses; messages that wait, and the latest")
    listing.add_argument("--state", action="append", choices=STATES, help="may be repeated")
    listing.add_argument("--limit", type=int, default=50)
    showing = actions.add_parser("show", parents=[common], help="one message with its body")
    showing.add_argument("id", metavar="ID")
    replaying = actions.add_parser("replay", parents=[common], help="deliver messages again, with the same id")
    replaying.add_argument("ids", nargs="*", metavar="ID")
    replaying.add_argument("--failed", action="store_true", help="all that were given up")
    for name, meaning in (
        ("enable", "let an address that has answered 410 get messages again"),
        ("forget", "tell an address of the setting webhooks of nothing any more, once it is taken out there"),
    ):
        actions.add_parser(name, parents=[common], help=meaning).add_argument("address")


async def notify(arguments: argparse.Namespace, store: Store, view: QueueView, tracing: Tracing) -> int:
    """Deliver until this is interrupted."""
    from ..messages.deliver import deliver, delivers, endpoints  # HTTP is loaded only where something is delivered

    settings = store.settings
    if not delivers(settings):
        raise ConfigError("webhook_secrets", "there is nothing to deliver without; set them, or smtp_url for mails.")
    logging.getLogger("sonic").setLevel(logging.INFO)
    outbox = Outbox(store)
    if arguments.json:
        print_json({"webhooks": len(endpoints(settings)), "mails": bool(settings.smtp_url)})
    else:
        console_for().print("Delivering webhooks and mails; Ctrl-C ends this, and nothing is lost by it.")
    looking = [
        asyncio.create_task(Unserved(view, tell=outbox.tell_unserved).run()),
        asyncio.create_task(AlertWatch(store, view, settings.alert_limits).run()),
    ]
    try:
        await deliver(outbox, settings, tracing)
    finally:
        for one in looking:
            one.cancel()
    return 0


async def webhooks(arguments: argparse.Namespace, store: Store) -> int:
    """One of the actions."""
    actions: dict[str, Callable[[argparse.Namespace, Outbox], Coroutine[Any, Any, int]]] = {
        "list": _list,
        "show": _show,
        "replay": _replay,
        "enable": _enable,
        "forget": _forget,
    }
    return await actions[arguments.action](arguments, Outbox(store))


async def _list(arguments: argparse.Namespace, outbox: Outbox) -> int:
    known = await outbox.endpoints()
    found = await outbox.deliveries(arguments.state or STATES, arguments.limit)
    if arguments.json:
        shown = [{**one, "url": safe_address(one["url"])} for one in known]
        print_json(
            {
                "endpoints": shown,
                "pending": await outbox.waiting(),
                "totals": await outbox.totals(),
                "messages": [one.to_dict() for one in found],
            }
        )
        return 0
    console = console_for()
    for one in known:
        events = ", ".join(one["events"]) or "all events"
        told = events if one["every_job"] else "a job's callback"
        since = f", disabled since {_time(one['disabled_s'])}" if one["disabled_s"] else ""
        console.print(f"{safe_address(one['url'])}: {told}{since}")
    rows = [
        (one.message_id, one.event, one.about, one.state, str(one.tries), _time(one.due_s), one.said) for one in found
    ]
    print_table(console, ("id", "event", "of", "state", "tries", "next", "last try"), rows)
    return 0


async def _show(arguments: argparse.Namespace, outbox: Outbox) -> int:
    one = await _known(outbox, arguments.id)
    if arguments.json:
        print_json({**one.to_dict(), "body": one.body})
        return 0
    console = console_for()
    console.print(f"{one.message_id}  {one.event}  {one.state}, {one.tries} tries")
    console.print(f"  to: {safe_address(one.url)}")
    if one.said:
        console.print(f"  last try {_time(one.tried_s)}: {one.said}".replace("  :", ":"))
    console.print(one.body)
    return 0


async def _known(outbox: Outbox, message_id: str) -> Delivery:
    if one := await outbox.delivery(message_id):
        return one
    raise BadJob("id", f"there is no webhook '{message_id}', or it is no longer kept.")


async def _replay(arguments: argparse.Namespace, outbox: Outbox) -> int:
    if bool(arguments.ids) == arguments.failed:
        raise BadJob("id", "name the webhooks to deliver again, or all that were given up with --failed.")
    ids = arguments.ids or [one.message_id for one in await outbox.deliveries(["failed"], EVERY)]
    answers = await outbox.replay(ids)
    if arguments.json:
        print_json([{"id": one, "answer": answer, "says": ANSWERS[answer]} for one, answer in answers.items()])
    else:
        for one, answer in answers.items():
            console_for().print(f"{one}: {ANSWERS[answer]}")
    return 1 if "missing" in answers.values() else 0


async def _enable(arguments: argparse.Namespace, outbox: Outbox) -> int:
    done = await outbox.enable(arguments.address)
    said = "gets messages again; those that were given up: webhooks replay --failed." if done else "was not disabled."
    return _say(arguments, done, said)


async def _forget(arguments: argparse.Namespace, outbox: Outbox) -> int:
    done = await outbox.forget(arguments.address)
    said = "is told of nothing any more, but for jobs that name it." if done else "was not told of anything."
    return _say(arguments, done, said)


def _say(arguments: argparse.Namespace, done: bool, said: str) -> int:
    address = safe_address(arguments.address)
    if arguments.json:
        print_json({"address": address, "done": done, "says": said})
    else:
        console_for().print(f"{address} {said}")
    return 0 if done else 1


def _time(at_s: float | None) -> str:
    return "" if at_s is None else f"{datetime.fromtimestamp(at_s):%Y-%m-%d %H:%M:%S}"
