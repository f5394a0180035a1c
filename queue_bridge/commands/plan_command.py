"""``sonic-queue plan``: what a number of videos takes in cards, hours and money, by what this fleet measured."""

from __future__ import annotations

import argparse
from typing import Any

from ..console import console_for, print_json
from ..errors import BadJob
from ..oversight.capacity import UTILISATION, Plan, measured, plan
from ..queue.figures import ENGINES
from ..queue.queue_view import QueueView
from ..tiers import TIERS


def add_plan_command(commands: Any, common: argparse.ArgumentParser) -> None:
    """Add the command to the command line. common: the options that all commands share."""
    planning = commands.add_parser("plan", parents=[common], help="GPUs, time and cost of a number of videos")
    planning.add_argument("--jobs", type=int, required=True, metavar="N", help="videos")
    planning.add_argument("--seconds", type=float, default=15.0, help="length of a video (default: 15)")
    planning.add_argument("--hours", type=float, default=24.0, help="in which they are made (default: 24)")
    planning.add_argument("--cost-per-gpu-hour", type=float, metavar="PRICE", help="of one card")
    planning.add_argument("--tier", type=int, choices=TIERS, help="videos of this tier only (default: all together)")
    planning.add_argument("--engine", choices=ENGINES, help="and of this engine")
    planning.add_argument(
        "--job-seconds", type=float, metavar="S", help="a card's seconds for one, if not measured here"
    )
    planning.add_argument(
        "--utilisation", type=float, default=UTILISATION, help=f"part of the time a card works (default: {UTILISATION})"
    )


async def plan_fleet(arguments: argparse.Namespace, view: QueueView) -> int:
    """Say what is needed; raises BadJob where nothing is known to say it by."""
    _check(arguments)
    if arguments.job_seconds:
        job_s, source = arguments.job_seconds, "as given by --job-seconds"
    else:
        found = measured(await view.figures(), arguments.tier, arguments.engine)
        if found is None:
            what = " and ".join(str(one) for one in (arguments.tier, arguments.engine) if one)
            of_these = f" of {what}" if what else ""
            raise BadJob(
                "--job-seconds",
                f"this fleet has completed no video{of_these} yet, so nothing is measured; give a card's seconds.",
            )
        job_s = found.job_s(arguments.seconds)
        source = f"measured over {found.jobs} videos, {found.starts:.2f} starts for each"
        if not found.video_s:
            source += ", whatever their length, which was not told"
    made = plan(arguments.jobs, arguments.hours, job_s, arguments.utilisation, arguments.cost_per_gpu_hour)
    now = len([one for one in await view.instances() if not one.get("unhealthy") and not one["draining"]])
    if arguments.json:
        there = {"instances": now, "hours_with_instances": round(made.drain_hours(now), 2) if now else None}
        print_json(
            {**made.__dict__, "hours_with_gpus": round(made.drain_hours(made.gpus), 2), "source": source, **there}
        )
        return 0
    _say(arguments, made, source, now)
    return 0


def _check(arguments: argparse.Namespace) -> None:
    positive = {"--jobs": arguments.jobs, "--seconds": arguments.seconds, "--hours": arguments.hours}
    for name, value in positive.items():
        if not 0 < value < 1e9:
            raise BadJob(name, f"{value:g} is no number above 0.")
    if arguments.job_seconds is not None and not 0 < arguments.job_seconds < 1e9:
        raise BadJob("--job-seconds", f"{arguments.job_seconds:g} is no number above 0.")
    if not 0 < arguments.utilisation <= 1:
        raise BadJob("--utilisation", f"{arguments.utilisation:g} is no part of the time, 0 to 1.")


def _say(arguments: argparse.Namespace, made: Plan, source: str, now: int) -> None:
    console = console_for()
    console.print(f"A video of {arguments.seconds:g} s takes {made.job_s:.1f} s of a card ({source}).")
    console.print(
        f"{made.jobs} of them in {made.hours:g} h: {made.gpus} GPU{'s' if made.gpus > 1 else ''}, each at work for "
        f"{made.utilisation:.0%} of the time; they are done after {made.drain_hours(made.gpus):.1f} h."
    )
    if made.cost is not None:
        console.print(f"Cost: {made.cost:.2f} for {made.gpus} × {made.hours:g} h.")
    if now:
        console.print(f"The {now} that take jobs now would need {made.drain_hours(now):.1f} h.")
