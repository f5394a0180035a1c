"""Makes a video of every pair in a folder: a queue and ComfyUI servers of our own, jobs through them, a table.

    python -m comfyui_sonic.queue_bridge.commands.run_folder --comfyui DIR --directory DIR FOLDER

Exit status: 0 when every usable pair has its video and there is at least one; what cannot be used (an unpaired file, a
picture that is none) is reported and does not count. 1 when a usable pair failed or nothing was made, 2 for a wrong
argument, 130 after Ctrl-C and 143 after SIGTERM. After those, what is left stays in the queue for the next run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from ..config import load_settings
from ..console import console_for, print_table
from ..database.redis_connection import check_server, connect
from ..errors import BridgeError
from ..intake.orders import Orders, read_orders
from ..pipelines.submission import Defaults, counts_line, make_output_folder, submit_orders
from ..pipelines.templates import SHIPPED, load_templates
from ..queue.queue_view import QueueView
from ..queue.store import Store
from ..servers.local_fleet import LocalFleet, stop_fleet
from .outcomes import HEADS, Row, every_usable_order_has_its_video, rows_of, summary
from .show_jobs import show_until_ended


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run_folder", description="Make a video of every pair in a folder.")
    parser.add_argument("folder", type=Path, nargs="?", help="a folder of pictures and recordings")
    parser.add_argument("--output", type=Path, default=Path("output"), help="where the MP4s go")
    parser.add_argument("--comfyui", type=Path, help="the folder with ComfyUI's main.py")
    parser.add_argument("--directory", type=Path, required=True, help="a folder of its own for queue and servers")
    parser.add_argument("--instances", type=int, default=2, help="how many ComfyUI servers")
    parser.add_argument("--port", type=int, default=0, help="the first server's port; 0 takes free ones")
    parser.add_argument("--again", action="store_true", help="make even what is there")
    parser.add_argument("--keep", action="store_true", help="leave servers and queue up")
    parser.add_argument("--stop", action="store_true", help="only stop what was left up")
    parser.add_argument("--stop-command", default="", help=argparse.SUPPRESS)  # what a person types to stop it
    arguments = parser.parse_args(argv)
    if not arguments.stop and not (arguments.folder and arguments.comfyui):
        parser.error("a folder and --comfyui are needed")
    return arguments


def _run(arguments: argparse.Namespace, console: Console) -> int:
    if arguments.stop:
        stopped = stop_fleet(arguments.directory)
        for server in stopped:
            console.print(f"The ComfyUI at {server.address} has ended.")
        if not stopped:
            console.print("No ComfyUI was left up here.")
        return 0
    orders = read_orders(arguments.folder.absolute(), arguments.output.absolute())
    if not orders.orders:
        rows = [Row(item.path.name, "skipped", job=False, notes=item.reason) for item in orders.left_out]
        if rows:
            _print_rows(console, rows)
        console.print(f"There is no pair to make a video of in '{arguments.folder}'.")
        return 1
    make_output_folder(arguments.output.absolute())
    fleet = LocalFleet(
        arguments.comfyui,
        arguments.directory.absolute(),
        instances=arguments.instances,
        port=arguments.port,
        roots=(*_folders(orders), arguments.output.absolute()),
        keep=arguments.keep,
        url=os.environ.get("REDIS_URL", ""),
    )
    completed = False
    try:
        status = asyncio.run(_make(arguments, orders, fleet, console))
        completed = True
    finally:
        fleet.stop(completed=completed)
    if arguments.keep and fleet.addresses:
        console.print(f"\nThe servers stay up: {', '.join(f'http://{address}' for address in fleet.addresses)}")
        # A given address may hold a password and is in the environment anyway, where sonic-queue finds it, too.
        named = "" if os.environ.get("REDIS_URL") else f"SONIC_QUEUE_URL={fleet.url} "
        console.print(f"Look at the queue with: {named}sonic-queue status")
        console.print(f"Stop everything with: {arguments.stop_command or '--stop'}")
    return status


async def _make(arguments: argparse.Namespace, orders: Orders, fleet: LocalFleet, console: Console) -> int:
    started = time.monotonic()
    url = fleet.start_queue()
    settings = load_settings(url=url)
    store = Store(connect(url), settings)
    view = QueueView(store.client, store.keys, url)
    try:
        await check_server(store.client, url)
        after = await view.last_event()
        templates = load_templates((SHIPPED, *settings.templates))
        submitted = await submit_orders(orders.orders, store, view, templates, Defaults(again=arguments.again))
        console.print(counts_line(submitted))
        names = {tracked.task_id: tracked.order.name for tracked in submitted.tracked if tracked.task_id}
        records = await view.jobs(sorted(names))
        if arguments.keep or not all(record.state.is_terminal for record in records.values()):
            console.print("Starting ComfyUI ...")
            starting = asyncio.create_task(asyncio.to_thread(fleet.start_instances, console.print))

            async def check() -> None:
                if starting.done():
                    starting.result()  # raises what went wrong
                    fleet.check([one["name"] for one in await view.instances()])

            records = await show_until_ended(view, names, after, console, check)
            await starting
    except BaseException:
        fleet.stop(completed=False)  # at once, so that nothing waits any more for a server to answer
        raise
    finally:
        await store.close()
    rows = rows_of(submitted, [*orders.left_out, *submitted.left_out], records)
    _print_rows(console, rows)
    console.print(f"\n{summary(rows)} in {time.monotonic() - started:.1f} s")
    return 0 if every_usable_order_has_its_video(rows) else 1


def _folders(orders: Orders) -> set[Path]:
    return {order.root for order in orders.orders}


def _print_rows(console: Console, rows: Sequence[Row]) -> None:
    console.print()
    print_table(console, HEADS, [row.cells() for row in rows])


def main(argv: Sequence[str] | None = None) -> int:
    """The command; returns its exit status."""
    arguments = _arguments(argv)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    console = console_for()
    received = []

    def end(number: int, _frame: object) -> None:
        received.append(number)
        signal.raise_signal(signal.SIGINT)

    # Started in the background of a shell, SIGINT would be ignored; SIGTERM is to tidy up as Ctrl-C does.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, end)
    try:
        return _run(arguments, console)
    except BridgeError as error:
        console.print(str(error))
        return 1
    except KeyboardInterrupt:
        console.print("\nStopped. What is not made yet stays in the queue for the next run.")
        return 128 + (received[0] if received else signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
