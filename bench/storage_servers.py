"""Whether an object store does what the queue needs of it: the contract of storage.py, step by step, on a real server.

    SONIC_QUEUE_CONFIG=settings.toml python -m bench.storage_servers NAME

NAME: that of a table [storage.NAME] (docs/storage.md). Everything is written below a prefix of its own in the first
bucket of the table, and removed again. Prints JSON: for each step whether it went well and what was said. Exit status 1
when a step did not.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import dataclasses
import hashlib
import json
import os
import secrets
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
from comfyui_sonic.queue_bridge.config import load_settings
from comfyui_sonic.queue_bridge.errors import BridgeError, ConfigError, FileUnreachable, ObjectMissing
from comfyui_sonic.queue_bridge.fetch_limits import Limits
from comfyui_sonic.queue_bridge.places.storage import Storage
from comfyui_sonic.queue_bridge.storage_places import ObjectAddress, SecretSource, StoragePlace, object_address
from yarl import URL

BYTES = 12 << 20  # more than one part of an upload
GONE = "sonic-bucket-that-is-not-there"
NAMES = ("plain.mp4", "安娜 1 (+&).mp4")
LIMITS = Limits(bytes=2 * BYTES, total_s=60.0, idle_s=15.0)


class Contract:
    """The steps for one place. folder: here, for files."""

    def __init__(self, place: StoragePlace, folder: Path) -> None:
        self.place = place
        self.folder = folder
        self.storage = Storage([place], LIMITS)
        key = f"sonic-contract-{secrets.token_hex(4)}/x"
        self.prefix = object_address(f"{place.kind}://{place.buckets[0]}/{key}", "buckets")
        self.content = secrets.token_bytes(BYTES)
        self.digest = hashlib.sha256(self.content).hexdigest()
        self.steps: dict[str, dict[str, Any]] = {}

    def at(self, name: str) -> ObjectAddress:
        return self.prefix.beside(name)

    async def run(self) -> None:
        steps: dict[str, Callable[[], Awaitable[str]]] = {
            "probe": self.probe,
            "put": self.put,
            "head": self.head,
            "get": self.get,
            "copy": self.copy,
            "list": self.list,
            "link": self.link,
            "link_range": self.link_range,
            "delete": self.delete,
            "missing_object": self.missing_object,
            "missing_bucket": self.missing_bucket,
            "wrong_keys": self.wrong_keys,
        }
        for name, step in steps.items():
            began = time.perf_counter()
            try:
                said, ok = await step(), True
            except (BridgeError, AssertionError, aiohttp.ClientError) as error:
                said, ok = str(error), False
            self.steps[name] = {"ok": ok, "said": said, "ms": round(1000 * (time.perf_counter() - began))}

    async def probe(self) -> str:
        found = await self.storage.probe("contract")
        assert not found, "; ".join(found.values())
        return ""

    async def put(self) -> str:
        file = self.folder / "made.mp4"
        file.write_bytes(self.content)
        for name in NAMES:
            await self.storage.upload(file, self.at(name), "video/mp4", self.digest)
        return f"{BYTES} bytes, twice"

    async def head(self) -> str:
        for name in NAMES:
            stored = await self.storage.stored(self.at(name))
            assert stored and (stored.bytes, stored.digest) == (BYTES, self.digest), f"{name}: {stored}"
        return "size and SHA-256 as written"

    async def get(self) -> str:
        for name in NAMES:
            await self.storage.download(self.at(name), self.folder / "got")
            assert (self.folder / "got").read_bytes() == self.content, f"{name}: other bytes"
        return ""

    async def copy(self) -> str:
        await self.storage.copy(self.at(NAMES[1]), self.at("copy.mp4"))
        stored = await self.storage.stored(self.at("copy.mp4"))
        assert stored and (stored.bytes, stored.digest) == (BYTES, self.digest), f"{stored}"
        return "with its SHA-256"

    async def list(self) -> str:
        folder = dataclasses.replace(self.prefix, key=self.prefix.key.rpartition("/")[0])
        found = {one.name for one in await self.storage.under(folder)}
        assert found == {*NAMES, "copy.mp4"}, f"{sorted(found)}"
        return ""

    async def link(self) -> str:
        for name in NAMES:
            status, content = await self._fetched(name, {})
            assert status == 200, f"{name}: {status} {content[:300]!r}"
            assert content == self.content, f"{name}: other bytes"
        return "without any key"

    async def link_range(self) -> str:
        status, content = await self._fetched(NAMES[0], {"Range": "bytes=1000-1999"})
        assert (status, content) == (206, self.content[1000:2000]), f"{status}, {len(content)} bytes"
        return ""

    async def _fetched(self, name: str, headers: dict[str, str]) -> tuple[int, bytes]:
        url = await self.storage.result_link(str(self.at(name)), 60)

        signed = URL(url, encoded=True)  # taken as it is
        async with aiohttp.ClientSession() as session, session.get(signed, headers=headers) as answer:
            return answer.status, await answer.read()

    async def delete(self) -> str:
        for name in (*NAMES, "copy.mp4", "copy.mp4"):
            await self.storage.remove(self.at(name))
        for name in NAMES:
            assert await self.storage.stored(self.at(name)) is None, f"{name} is still there"
        return "also what is not there"

    async def missing_object(self) -> str:
        return await self._refused(self.storage, self.at("nobody.mp4"), ObjectMissing, "is not there")

    async def missing_bucket(self) -> str:
        storage = Storage([dataclasses.replace(self.place, buckets=(GONE,))], LIMITS)
        said = await self._refused(
            storage, dataclasses.replace(self.prefix, bucket=GONE), FileUnreachable, "The bucket"
        )
        found = await storage.probe("contract")
        assert list(found.values()) == [said], f"{found}"
        return said

    async def wrong_keys(self) -> str:
        if not self.place.secrets:
            return "not tried: the table names no keys"
        names = ("secret_key", "account_key", "sas", "service_account")
        name = next(name for name in names if name in self.place.secrets)
        if name == "service_account":
            return "not tried: a service account cannot be made up"
        wrong = {"WRONG": base64.b64encode(bytes(32)).decode() if name == "account_key" else "wrong"}
        changed = {**self.place.secrets, name: SecretSource(env="WRONG")}
        storage = Storage([dataclasses.replace(self.place, secrets=changed)], LIMITS, os.environ | wrong)
        try:
            await storage.upload(b"nothing", self.at("nothing"), "text/plain")
        except FileUnreachable as error:
            assert f"the keys of {self.place.said}" in str(error), str(error)
            return str(error)
        raise AssertionError("written all the same; it checks no keys")

    async def _refused(self, storage: Storage, address: ObjectAddress, error: type[BridgeError], words: str) -> str:
        try:
            await storage.download(address, self.folder / "nothing")
        except BridgeError as raised:
            assert isinstance(raised, error) and words in str(raised), f"{type(raised).__name__}: {raised}"
            return str(raised)
        raise AssertionError(f"'{address}' was read")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", help="of a table [storage.NAME] in the file that SONIC_QUEUE_CONFIG names")
    arguments = parser.parse_args()
    try:
        places = {place.name: place for place in load_settings().places}
    except ConfigError as error:
        parser.error(str(error))
    if arguments.name not in places:
        parser.error(f"there is no [storage.{arguments.name}]; there are {', '.join(sorted(places)) or 'none'}")
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        contract = Contract(places[arguments.name], Path(folder))
        asyncio.run(contract.run())
    json.dump({"place": arguments.name, "steps": contract.steps}, sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    return 0 if all(step["ok"] for step in contract.steps.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
