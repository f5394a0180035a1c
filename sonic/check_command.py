"""The command ``check``: how good a finished video is. Exit status: 0 when nothing falls short, 1 otherwise."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any


def add_check_command(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Puts it onto a command line, with its function as the default ``run``."""
    check = commands.add_parser("check", help="how good a finished video is: lip sync, flicker, mouth")
    check.add_argument("videos", nargs="+", type=Path, metavar="VIDEO", help="an MP4, MOV, MKV or WebM")
    check.add_argument("--json", action="store_true", help="print JSON instead of text")
    check.set_defaults(run=check_videos)


def check_videos(arguments: argparse.Namespace) -> int:
    """Raises BadVideo for the first that cannot be read."""
    from .quality import report_of  # torch is loaded only when something is measured

    found = {str(path): report_of(path) for path in arguments.videos}
    if arguments.json:
        sys.stdout.write(json.dumps(found, indent=2, ensure_ascii=False) + "\n")
    else:
        for path, report in found.items():
            sys.stdout.write(f"{path}\n" + "".join(f"  {line}\n" for line in lines_of(report)))
    return int(any(report["falls_short"] for report in found.values()))


def lines_of(report: dict[str, Any]) -> list[str]:
    """The same for a person."""

    def told(value: Any, unit: str) -> str:
        return "cannot be told" if value is None else f"{value:g}{unit}"

    offset = told(report["sync_offset_ms"], " ms")
    sure = "" if report["sync_offset_ms"] is None or report["sync_is_sure"] else ", not sure"
    engine = f", engine {report['engine']}" if report["engine"] else ""
    return [
        f"{report['frames']} frames, {report['seconds']:g} s{engine}",
        f"mouth behind sound: {offset}{sure}; agreement: {told(report['sync_correlation'], '')}",
        f"open in silence: {told(report['open_in_silence'], ' of the widest')}; "
        f"mouth's amplitude: {told(report['mouth_amplitude'], ' of the face')}",
        f"flicker: {report['flicker_percent']:g} %; frames without a face: {report['face_lost_frames']}",
        *(report["falls_short"] or ["Nothing falls short."]),
    ]
