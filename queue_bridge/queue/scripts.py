"""The Lua scripts: their source, and the arguments that all of them begin with. Knows no connection."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from ..config import Settings
from .keys import Keys

FOLDER = Path(__file__).with_name("lua")
NAMES = tuple(sorted(path.stem for path in FOLDER.glob("*.lua") if path.stem != "common"))
Argument = str | int | float | bytes
OPTIONAL = frozenset({"info"})  # done without where it is refused
READS = frozenset(  # outside of scripts
    {"get", "hget", "hgetall", "hkeys", "hlen", "hmget", "hvals", "lrange", "smembers", "xlen", "xrange", "xread"}
    | {"xrevrange", "zcard", "zrange", "zrevrange"}
)
BEGINS = re.compile(r"^(?=local )", re.MULTILINE)
DEFINED = re.compile(r"local (?:function )?(\w+(?:, \w+)*)")
WORD = re.compile(r"\w+")
COMMENT = re.compile(r"^--.*\n", re.MULTILINE)
CALLS = re.compile(r"redis\.p?call\('(\w+)'")


def linked(script: str, shared: str) -> str:
    """A script behind those definitions of ``shared`` that it needs, in their order.

    A server runs all of a script's text at every call, and making a function that nobody calls takes it as long as a
    quick command. A definition begins with "local" at the start of a line and ends before the next one; whatever has
    its name in it, be it in a text, is taken to need it.
    """
    definitions = [(DEFINED.match(text), text) for text in BEGINS.split(shared)]
    texts = {name: text for found, text in definitions if found for name in WORD.findall(found[1])}
    needed, looked_at = set[str](), WORD.findall(script)
    while looked_at:
        name = looked_at.pop()
        if name in texts and name not in needed:
            needed.add(name)
            looked_at += WORD.findall(texts[name])
    kept = [text for found, text in definitions if found and needed.intersection(WORD.findall(found[1]))]
    return COMMENT.sub("", "".join(kept)) + script


class Scripts:
    """The scripts of one queue. clock: seconds since 1970, for tests; the server's own clock without."""

    def __init__(self, settings: Settings, clock: Callable[[], float] | None = None) -> None:
        self.keys = Keys(settings.prefix)
        self._clock = clock
        self._limits: tuple[Argument, ...] = (
            settings.events_kept,
            int(settings.retention_days * 86_400_000),
            settings.crashes,
        )

    def source(self, name: str) -> str:
        """The whole text of a script: of key names and what is shared as much as it needs, and the script itself."""
        common, script = ((FOLDER / f"{part}.lua").read_text(encoding="utf-8") for part in ("common", name))
        return linked(script, f"{self.keys.lua_names()}\n{common}")

    def commands(self) -> tuple[str, ...]:
        """Every command of the database that the queue uses."""
        texts = [path.read_text(encoding="utf-8") for path in FOLDER.glob("*.lua")]
        called = {name.lower() for text in texts for name in CALLS.findall(text)}
        return tuple(sorted(name.upper() for name in (called | READS) - OPTIONAL))

    def arguments(self, *values: Argument) -> list[Argument]:
        """ARGV of a script whose own arguments are these."""
        now = "" if self._clock is None else f"{self._clock() * 1000:.0f}"
        return [now, *self._limits, *values]

    @property
    def routing_key(self) -> str:
        """KEYS[1]: a cluster finds the queue's slot by it."""
        return self.keys.leases
