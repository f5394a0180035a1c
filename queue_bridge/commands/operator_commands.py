"""What an operator does by hand: ``sonic-queue cancel``, ``dead list|retry|drop`` and ``drain``."""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import Any

from ..console import console_for, print_json, print_table
from ..errors import BadJob
from ..job import JobRecord
from ..queue.queue_view import QueueView
from ..queue.store import Store

CANCEL_A_CALL = 100  # each is looked for in the list of its batch
SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        "cancelled": "cancelled.",
        "cancelling": "is being cancelled on {owner}.",
        "staged": "its video is made and is being put in its place; it stays a completed job.",
        "completed": "has completed already and stays that.",
        "failed": "has failed already; there is nothing to cancel.",
        "missing": "there is no such job in this queue, or it is no longer kept.",
    }
)
GOES = frozenset({"cancelled", "cancelling"})


def add_operator_commands(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the commands to the command line. common: the options that all commands share."""
    cancelling = commands.add_parser("cancel", parents=[common], help="end jobs that nobody wants any more")
    _which(cancelling, every="")

    letters = commands.add_parser("dead", help="the dead letter: jobs whose attempts are used up")
    actions = letters.add_subparsers(dest="action", required=True, metavar="ACTION")
    listing = actions.add_parser("list", parents=[common], help="what lies there, latest first")
    listing.add_argument("--batch", help="only the jobs of this batch")
    listing.add_argument("--limit", type=int, default=50)
    for name, meaning in (
        ("retry", "start them again, with all their attempts"),
        ("drop", "take them out; they stay failed"),
    ):
        _which(actions.add_parser(name, parents=[common], help=meaning), every="all that lie there")

    draining = commands.add_parser("drain", parents=[common], help="let a ComfyUI server take no new job")
    draining.add_argument("instance", metavar="INSTANCE", help="its name, as `sonic-queue status` shows it")
    how = draining.add_mutually_exclusive_group()
    how.add_argument("--stop-running", action="store_true", help="give the job at hand back at once")
    how.add_argument("--undo", action="store_true", help="let it take jobs again")


def _which(command: argparse.ArgumentParser, every: str) -> None:
    command.add_argument("ids", nargs="*", metavar="ID", help="jobs")
    command.add_argument("--batch", help="the jobs of this batch")
    if every:
        command.add_argument("--all", action="store_true", help=every)


async def cancel(arguments: argparse.Namespace, store: Store, view: QueueView) -> int:
    """Cancel jobs; the status is 1 when one of those that were named is not going to be cancelled."""
    ids = list(dict.fromkeys(arguments.ids))
    if bool(ids) == bool(arguments.batch):
        raise BadJob("id", "name the jobs to cancel, or one batch with --batch.")
    answers: dict[str, str] = {}
    if arguments.batch:
        if not await view.batch(arguments.batch):
            raise BadJob("--batch", f"there is no batch '{arguments.batch}' in this queue, or it is no longer kept.")
        # A job that moves while the queue is looked through is found when it is looked through again.
        while found := [one for one in await view.live_in_batch(arguments.batch) if one not in answers]:
            answers |= await _cancel(store, found)
    else:
        answers = await _cancel(store, ids)
    owners = {task_id: record.owner for task_id, record in (await view.jobs(sorted(answers))).items()}
    said = {one: SENTENCES[answer].format(owner=owners.get(one) or "its server") for one, answer in answers.items()}
    if arguments.json:
        print_json([{"task_id": one, "answer": answer, "says": said[one]} for one, answer in answers.items()])
    else:
        console = console_for()
        for task_id, sentence in said.items():
            console.print(f"{task_id}: {sentence}")
        if not answers:
            console.print(f"Every job of the batch '{arguments.batch}' has ended.")
    return 0 if arguments.batch or set(answers.values()) <= GOES else 1


async def _cancel(store: Store, ids: Sequence[str]) -> dict[str, str]:
    answers: dict[str, str] = {}
    for start in range(0, len(ids), CANCEL_A_CALL):
        answers |= await store.cancel(ids[start : start + CANCEL_A_CALL])
    return answers


async def dead(arguments: argparse.Namespace, store: Store, view: QueueView) -> int:
    """List the dead letter, or put jobs back from it, or take them out."""
    lying = await view.dead()
    if arguments.action == "list":
        records = await view.jobs(lying)
        found = [records[one] for one in lying if one in records and _is_of(records[one], arguments.batch)]
        _show_dead(found, arguments)
        return 0
    ids = await _chosen(arguments, view, lying)
    unknown = {one for one in ids if one not in lying}
    answers: dict[str, str] = {}
    if unknown:
        states = {one: str(record.state) for one, record in (await view.jobs(sorted(unknown))).items()}
        answers = {one: states.get(one, "missing") for one in ids if one in unknown}
    chosen = [one for one in ids if one not in unknown]
    if arguments.action == "retry":
        for task_id in chosen:
            answers[task_id] = str(await store.restart(task_id))
    else:
        answers |= await store.drop(chosen)
    done = "starts again with all its attempts." if arguments.action == "retry" else "is dropped; it stays failed."
    said = {
        one: done
        if answer == "ok"
        else SENTENCES["missing"]
        if answer == "missing"
        else f"does not lie in the dead letter; it is {answer}."
        for one, answer in answers.items()
    }
    if arguments.json:
        print_json([{"task_id": one, "answer": answer, "says": said[one]} for one, answer in answers.items()])
    else:
        console = console_for()
        for task_id in ids:
            console.print(f"{task_id}: {said[task_id]}")
        if not ids:
            console.print("Nothing lies in the dead letter.")
    return 0 if set(answers.values()) <= {"ok"} else 1


async def _chosen(arguments: argparse.Namespace, view: QueueView, lying: Sequence[str]) -> list[str]:
    if sum(map(bool, (arguments.ids, arguments.batch, arguments.all))) != 1:
        raise BadJob("id", f"name the jobs to {arguments.action}, or one batch with --batch, or --all.")
    if arguments.batch:
        records = await view.jobs(lying)
        chosen = [one for one in lying if one in records and _is_of(records[one], arguments.batch)]
        if not chosen:
            raise BadJob("--batch", f"no job of the batch '{arguments.batch}' lies in the dead letter.")
        return chosen
    return list(reversed(lying)) if arguments.all else list(dict.fromkeys(arguments.ids))


def _is_of(record: JobRecord, batch: str | None) -> bool:
    return not batch or record.spec.batch == batch


def _show_dead(records: Sequence[JobRecord], arguments: argparse.Namespace) -> None:
    if arguments.json:
        print_json([record.to_dict() for record in records[: arguments.limit]])
        return
    console = console_for()
    if not records:
        console.print("Nothing lies in the dead letter.")
        return
    rows = [
        (
            record.task_id,
            record.spec.name,
            record.spec.batch,
            str(record.attempt),
            f"{datetime.fromtimestamp(record.ended_s or 0):%Y-%m-%d %H:%M}",
            record.error,
        )
        for record in records[: arguments.limit]
    ]
    print_table(console, ("id", "name", "batch", "attempts", "since", "error"), rows)
    if len(records) > arguments.limit:
        console.print(f"{len(records) - arguments.limit} more; --limit shows them.")


async def drain(arguments: argparse.Namespace, store: Store) -> int:
    """Let an instance take no new job, or take jobs again."""
    name = arguments.instance
    if arguments.undo:
        undone = await store.undrain(name)
        said = f"{name} takes jobs again." if undone else f"{name} was not draining."
        _say(arguments, {"instance": name, "draining": False, "running": []}, said)
        return 0
    grace_s = 0.0 if arguments.stop_running else store.settings.drain_grace_s
    running = await store.drain(name, grace_s)
    if running is None:
        raise BadJob("instance", f"no ComfyUI called '{name}' takes jobs from this queue now.")
    said = f"{name} takes no new job, not even when it is started again; `sonic-queue drain {name} --undo` ends that."
    if running:
        what = "is given back now" if not grace_s else f"has {grace_s:.0f} s to end, and is given back after that"
        said = f"{said}\n{', '.join(running)} {what}."
    _say(arguments, {"instance": name, "draining": True, "running": running}, said)
    return 0


def _say(arguments: argparse.Namespace, fields: Mapping[str, Any], sentence: str) -> None:
    if arguments.json:
        print_json({**fields, "says": sentence})
    else:
        console_for().print(sentence)
