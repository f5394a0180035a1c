"""What the queue knows of files that clients upload and name by an id: whose they are, where their bytes lie."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from .store import Store


@dataclass(frozen=True)
class Asset:
    """One uploaded file. hash: ``blake3:<hex>``. name: as its client calls it. made_s: since 1970.

    folder, file: where its bytes lie, below the gateway's folder of uploads. bytes: how many.
    """

    id: str
    caller: str
    hash: str
    type: str
    name: str
    made_s: float
    folder: str = ""
    file: str = ""
    bytes: int = 0

    @property
    def blob(self) -> str:
        return blob_id(self.caller, self.hash)

    def described(self) -> str:
        """What is kept of it beside its id and its bytes' place."""
        kept = {name: value for name, value in asdict(self).items() if name not in ("id", "folder", "file", "bytes")}
        return json.dumps({**kept, "blob": self.blob}, ensure_ascii=False)


def blob_id(caller: str, digest: str) -> str:
    """The name of a caller's bytes: another one's same bytes are others, so that nobody learns of them."""
    return f"blob_{hashlib.sha256(f'{caller} {digest}'.encode()).hexdigest()[:24]}"


class AssetRecords:
    """The uploaded files of one queue. They are kept for ``retention_days`` after their last use.

    Raises QueueUnavailable when its server does not answer; every call may be repeated.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._keys = store.keys

    async def keep(self, asset: Asset) -> tuple[Asset, bool] | None:
        """Remember a file, with the bytes in its folder; whether those lie there now, as they were not anywhere before.

        Without a folder its bytes must be there; None when they are not.
        """
        where = (asset.folder, asset.file, asset.bytes)
        answer = await self._store.call("asset_keep", asset.id, asset.caller, asset.blob, *where, asset.described())
        if not answer:
            return None
        new, folder, file, size = answer
        return replace(asset, folder=folder, file=file, bytes=int(size)), bool(new)

    async def find(self, asset_ids: Sequence[str], *, used: bool = True) -> dict[str, Asset]:
        """Those of these files that are there. used: they are kept for longer by this."""
        if not asset_ids:
            return {}
        answers = await self._store.call("asset_use", int(used), *asset_ids)
        return {one: _read(one, *answer) for one, answer in zip(asset_ids, answers, strict=True) if answer}

    async def drop(self, asset_id: str) -> str | None:
        """Forget a file; the folder of its bytes when no other has them, else ''. None when there is no such file."""
        folder: str = await self._store.call("asset_drop", asset_id)
        return None if folder == "missing" else folder

    async def forget_bytes(self, blob: str) -> None:
        """They are gone from the disk; so are the files that had them."""
        await self._store.ask("DEL", self._keys.blob(blob))

    async def folder_of(self, blob: str) -> str:
        """The folder in which these bytes lie, or ''."""
        return await self._store.ask("HGET", self._keys.blob(blob), "folder") or ""

    async def latest(self, caller: str, limit: int) -> list[Asset]:
        """A caller's files, the last used first, at most so many."""
        ids: list[str] = await self._store.ask("ZREVRANGE", self._keys.assets(caller), 0, limit - 1)
        return list((await self.find(ids, used=False)).values())


def _read(asset_id: str, text: str, folder: str, file: str, size: Any) -> Asset:
    fields = json.loads(text)
    del fields["blob"]
    return Asset(id=asset_id, folder=folder, file=file, bytes=int(size), **fields)
