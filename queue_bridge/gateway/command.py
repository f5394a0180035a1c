"""``sonic-queue gateway`` and ``sonic-queue keys``."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from ..console import console_for, print_json, print_table
from ..errors import BadJob
from ..pipelines.templates import Template
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..tracing import Tracing


def add_gateway_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line. common: the options that all commands share."""
    serving = commands.add_parser("gateway", parents=[common], help="the queue over HTTP")
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    serving.add_argument("--port", type=int, default=8190, help="0 for a free one (default: 8190)")
    serving.add_argument("--open", action="store_true", help="no API key is needed, by whoever reaches it")
    serving.add_argument("--tls-cert", type=Path, metavar="FILE", help="certificate (PEM) for https")
    serving.add_argument("--tls-key", type=Path, metavar="FILE", help="its private key (PEM)")

    keys = commands.add_parser("keys", help="API keys of the gateway")
    actions = keys.add_subparsers(dest="action", required=True, metavar="ACTION")
    create = actions.add_parser("create", parents=[common], help="a new key; it is shown once")
    create.add_argument("name", metavar="NAME", help="whose it is, for people")
    create.add_argument("--scopes", default="submit,read", help="of submit, read, admin (default: submit,read)")
    create.add_argument("--rate", default="0", metavar="N/min", help="requests a minute (default: any number)")
    create.add_argument("--backlog", type=int, default=0, metavar="N", help="tasks that have not ended (default: any)")
    actions.add_parser("list", parents=[common], help="every key, without its secret")
    revoke = actions.add_parser("revoke", parents=[common], help="it opens nothing any more")
    revoke.add_argument("id", metavar="ID", help="as `keys list` shows it")


async def gateway(
    arguments: argparse.Namespace, store: Store, view: QueueView, templates: Mapping[str, Template], tracing: Tracing
) -> int:
    """Serve until SIGTERM or Ctrl-C."""
    from .serve import Listening, serve

    logging.getLogger("sonic.gateway").setLevel(logging.INFO)
    logging.getLogger("sonic.gateway.access").setLevel(logging.WARNING)
    where = Listening(arguments.host, arguments.port, arguments.open, arguments.tls_cert, arguments.tls_key)

    def say(address: str) -> None:
        if arguments.json:
            print_json({"address": address})
        else:
            console_for().print(
                f"The queue '{store.settings.queue}' is served at {address}; open that in a browser. "
                "For programs, /openapi.json describes it."
            )

    await serve(store.settings, store, view, templates, where, say, tracing)
    return 0


async def keys(arguments: argparse.Namespace, store: Store) -> int:
    """Make, list or revoke API keys."""
    from .api_keys import ApiKeys

    known = ApiKeys(store)
    if arguments.action == "create":
        scopes = [scope.strip() for scope in arguments.scopes.split(",") if scope.strip()]
        made, text = await known.create(arguments.name, scopes, _rate(arguments.rate), _count(arguments.backlog))
        if arguments.json:
            print_json({**made.told(), "key": text})
        else:
            console = console_for()
            console.print(text)
            console.print(f"This is the key of '{made.name}' ({', '.join(made.scopes)}). It is not shown again.")
        return 0
    if arguments.action == "revoke":
        revoked = await known.revoke(arguments.id)
        if revoked is None:
            raise BadJob("id", f"there is no key '{arguments.id}'.")
        if arguments.json:
            print_json(revoked.told())
        else:
            console_for().print(f"The key {revoked.id} of '{revoked.name}' opens nothing any more.")
        return 0
    found = await known.list()
    if arguments.json:
        print_json([one.told() for one in found])
        return 0
    heads = ("id", "name", "scopes", "rate", "backlog", "since", "")
    rows = [
        (
            one.id,
            one.name,
            ", ".join(one.scopes),
            f"{one.rate}/min" if one.rate else "",
            str(one.backlog or ""),
            f"{datetime.fromtimestamp(one.created_s):%Y-%m-%d %H:%M}",
            "" if one.digest else "revoked",
        )
        for one in found
    ]
    print_table(console_for(), heads, rows)
    return 0


def _rate(text: str) -> int:
    number, _, unit = text.partition("/")
    if unit not in ("", "min") or not number.isascii() or not number.isdigit() or int(number) > 1_000_000:
        raise BadJob("--rate", f"'{text}' is no number of requests a minute, such as 120/min.")
    return int(number)


def _count(number: int) -> int:
    if not 0 <= number <= 100_000_000:
        raise BadJob("--backlog", f"{number} is no number of tasks.")
    return number
