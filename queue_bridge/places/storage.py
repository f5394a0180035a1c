"""Object stores: S3 and its kin (OSS, MinIO), Google's, Azure's. The one place that knows the library for them.

What the library says of an error is never repeated, since it may hold signed addresses and key ids; an operator reads
a sentence with the store's own code for it. Every operation may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import logging
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from ..errors import BadJob, BridgeError, FileUnreachable, JobError, ObjectMissing
from ..fetch_limits import MEBIBYTE, Limits
from ..storage_places import ObjectAddress, SecretSource, StoragePlace, object_address
from .azure_link import signed_again

log = logging.getLogger("sonic.storage")

CONNECT_S = 10.0
TRIES_AGAIN = 2  # by the library; the queue tries again by itself
TRIES_S = 20.0
KEYS_KEPT_S = 300.0  # then a file that holds a key is read again
BLOCK_BYTES = 1 << 20
PROBE_S = 30.0
LINK_S_MAX = 7 * 24 * 3600.0
DIGEST = "sha256"  # the name of what is kept with an object of ours
PROBE = b"Written and removed at once, to see whether that is allowed."
CODE = re.compile(r"<Code>(\w{1,60})</Code>")
STATUS = re.compile(r"status code: (\d{3})")
WRONG_KEYS = frozenset(
    {
        "AuthenticationFailed",
        "ExpiredToken",
        "InvalidAccessKeyId",
        "InvalidAuthenticationInfo",
        "InvalidSecurityToken",
        "InvalidToken",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
OTHER_KIND_WORDS = ("Header missing from response", "Got invalid")  # of a server that is another kind of store
NO_BUCKET_WORDS = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")


@dataclass(frozen=True)
class Stored:
    """What is known of an object. digest: the SHA-256 that the queue has written with it, or ''."""

    bytes: int
    digest: str


class Storage:
    """The object stores of one process. environment: where keys are that a place names by a variable."""

    def __init__(
        self,
        places: Sequence[StoragePlace] = (),
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._places = tuple(places)
        self._limits = limits or Limits()
        self._environment = os.environ if environment is None else environment
        self._stores: dict[tuple[str, str, bool], Any] = {}

    def check(self, address: ObjectAddress, what: str) -> None:
        """Raises BadJob when jobs may not name this object; what: the field that does."""
        if self._place_of(address) is None:
            raise BadJob(
                what,
                f"'{address.kind}://{address.bucket}' is no bucket that jobs may use here, or not with this prefix; an "
                "operator adds it to buckets.",
            )

    async def download(self, address: ObjectAddress, place: Path) -> None:
        """Copy an object to a file, which holds it whole or not at all.

        Raises JobError when it is not there, empty or too large, FileUnreachable when it cannot be had now.
        """
        part = place.with_name(f".{place.name[:100]}.part")
        try:
            with self._told(address, "read"), part.open("wb") as file:
                async with asyncio.timeout(self._limits.total_s):
                    found = await _library().get_async(self._store(address), address.key)
                    size = int(found.meta["size"])
                    self._check_size(address, size)
                    async for block in found.stream(min_chunk_size=BLOCK_BYTES):
                        await asyncio.to_thread(file.write, block)
            if part.stat().st_size != size:
                raise FileUnreachable(f"'{address}' broke off before its end.")
            part.replace(place)
        finally:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)

    def _check_size(self, address: ObjectAddress, size: int) -> None:
        if not size:
            raise JobError(f"'{address}' is an empty file.")
        if size > self._limits.bytes:
            raise JobError(f"'{address}' is larger than {self._limits.bytes / MEBIBYTE:.3g} MiB, which is the limit.")

    async def upload(self, source: Path | bytes, address: ObjectAddress, content_type: str, digest: str = "") -> None:
        """Put a file there, whole or not at all; one that is there is replaced. Raises FileUnreachable."""
        attributes = {"Content-Type": content_type, **({DIGEST: digest} if digest else {})}
        with self._told(address, "written"):
            async with asyncio.timeout(self._limits.total_s):
                await _library().put_async(self._store(address), address.key, source, attributes=attributes)

    async def copy(self, source: ObjectAddress, target: ObjectAddress) -> None:
        """Copy within a bucket, with what is kept with the object. Raises ObjectMissing, FileUnreachable."""
        with self._told(target, "written"):
            await _library().copy_async(self._store(source, copies=True), source.key, target.key)

    async def stored(self, address: ObjectAddress) -> Stored | None:
        """What is there, or None. Raises FileUnreachable."""
        try:
            with self._told(address, "read"):
                found = await _library().get_async(self._store(address), address.key, options={"head": True})
                return Stored(int(found.meta["size"]), str(dict(found.attributes).get(DIGEST, "")))
        except ObjectMissing:
            return None

    async def remove(self, address: ObjectAddress) -> None:
        """Remove an object; one that is not there is fine. Raises FileUnreachable."""
        with contextlib.suppress(ObjectMissing), self._told(address, "removed"):
            await _library().delete_async(self._store(address), address.key)

    async def under(self, folder: ObjectAddress) -> list[ObjectAddress]:
        """Objects whose keys begin with that of the folder and a slash. Raises FileUnreachable."""
        with self._told(folder, "listed"):
            found = await _library().list(self._store(folder), prefix=folder.key).collect_async()
        return [ObjectAddress(folder.kind, folder.bucket, str(one["path"])) for one in found]

    async def result_link(self, place: str, seconds: float) -> str:
        """An address at which anybody can get this object, for so long. Raises BadJob, FileUnreachable.

        place: as in a job's result, ``s3://...``. It holds a signature: it is to be handed out, not kept or logged.
        """
        address = object_address(place, "output")
        self.check(address, "output")
        lasting = timedelta(seconds=min(max(seconds, 1.0), LINK_S_MAX))
        with self._told(address, "signed"):
            link = str(await _library().sign_async(self._store(address), "GET", address.key, lasting))
            found = self._place_of(address)
            if found and found.kind == "az" and found.account and "account_key" in found.secrets:
                return signed_again(link, found.account, self._read(found, "account_key"))
            return link

    async def probe(self, name: str) -> dict[str, str]:
        """What cannot be used, by bucket, as sentences; empty when all is well. name: tells probes of several apart."""
        allowed = [(place, bucket) for place in self._places for bucket in place.buckets]
        found = await asyncio.gather(*(self._probe(place, bucket, name) for place, bucket in allowed))
        return {f"{place.kind}://{bucket}": said for (place, bucket), said in zip(allowed, found, strict=True) if said}

    async def _probe(self, place: StoragePlace, bucket: str, name: str) -> str:
        address = object_address(f"{place.kind}://{bucket}/.sonic-probe-{name}", "buckets")
        try:
            async with asyncio.timeout(PROBE_S):
                await self.upload(PROBE, address, "text/plain", DIGEST)
                stored = await self.stored(address)
                with self._told(address, "read"):
                    found = await _library().get_async(self._store(address), address.key)
                    content = bytes(await found.bytes_async())
                await self.remove(address)
        except TimeoutError:
            return f"'{place.kind}://{bucket}' did not answer within {PROBE_S:g} s."
        except BridgeError as error:
            return str(error)
        if content != PROBE:
            return f"'{place.kind}://{bucket}' gives back something else than was put there."
        if stored is None or stored.digest != DIGEST:
            return f"'{place.kind}://{bucket}' does not keep metadata, by which the queue knows its videos again."
        return ""

    def _place_of(self, address: ObjectAddress) -> StoragePlace | None:
        return next((place for place in self._places if place.allows(address)), None)

    def _store(self, address: ObjectAddress, *, copies: bool = False) -> Any:
        place = self._place_of(address)
        if place is None:
            raise BadJob("storage", f"'{address.kind}://{address.bucket}' is no bucket that may be used here.")
        at = (place.kind, address.bucket, copies and place.kind == "s3")
        if at not in self._stores:
            self._stores[at] = self._open(place, address.bucket, without_body=at[2])
        return self._stores[at]

    def _open(self, place: StoragePlace, bucket: str, *, without_body: bool) -> Any:
        stores = _library().store
        client = {
            "timeout": f"{self._limits.total_s:g}s",
            "read_timeout": f"{self._limits.idle_s:g}s",
            "connect_timeout": f"{CONNECT_S:g}s",
            "allow_http": place.endpoint.startswith("http://") or not place.name,
        }
        if without_body:  # the library leaves the length of a copy out, and stores that insist on one refuse it (411)
            client["default_headers"] = {"content-length": "0"}
        if place.ca_file:
            client["root_certificate"] = self._read_file(place, place.ca_file).encode()
        retries = {"max_retries": TRIES_AGAIN, "retry_timeout": timedelta(seconds=TRIES_S)}
        options: dict[str, Any] = {"client_options": client, "retry_config": retries}
        if place.kind == "s3":
            if "key_id" in place.secrets:
                options["credential_provider"] = self._s3_keys(place)
            return stores.S3Store(bucket, config=_s3_config(place, bucket), **options)
        secrets = {name: self._read(place, name) for name in place.secrets}
        if place.kind == "gs":
            return stores.GCSStore(bucket, config=_gcs_config(place, secrets), **options)
        return stores.AzureStore(bucket, config=_azure_config(place, secrets), **options)

    def _s3_keys(self, place: StoragePlace) -> Callable[[], dict[str, Any]]:
        """Reads the keys again from time to time, as they are replaced now and then."""

        def keys() -> dict[str, Any]:
            token = self._read(place, "session_token") if "session_token" in place.secrets else None
            return {
                "access_key_id": self._read(place, "key_id"),
                "secret_access_key": self._read(place, "secret_key"),
                "token": token,
                "expires_at": datetime.now(UTC) + timedelta(seconds=KEYS_KEPT_S),
            }

        keys()  # what is missing is said now, in one sentence
        return keys

    def _read(self, place: StoragePlace, name: str) -> str:
        source: SecretSource = place.secrets[name]
        if source.file:
            return self._read_file(place, source.file)
        value = self._environment.get(source.env, "").strip()
        if not value:
            raise FileUnreachable(f"The variable {source.env}, which {place.said} names, is not set.")
        return value

    def _read_file(self, place: StoragePlace, file: str) -> str:
        try:
            return Path(file).read_text(encoding="utf-8").strip()
        except (OSError, ValueError) as error:
            reason = getattr(error, "strerror", None) or "no text"
            raise FileUnreachable(f"'{file}', which {place.said} names, cannot be read: {reason}.") from None

    @contextlib.contextmanager
    def _told(self, address: ObjectAddress, done: str) -> Iterator[None]:
        """The one seam at which the library's errors become ours. done: what was to be done with the object."""
        try:
            yield
        except (BridgeError, asyncio.CancelledError):
            raise
        except TimeoutError:
            raise FileUnreachable(
                f"'{address}' could not be {done} within {self._limits.total_s:g} s; the store is slow or away."
            ) from None
        except Exception as error:  # whatever the library raises may hold what is secret
            if isinstance(error, OSError) and error.errno is not None:  # of a file here
                raise
            raise self._ours(address, done, error) from None

    def _ours(self, address: ObjectAddress, done: str, error: Exception) -> BridgeError:
        if not isinstance(error, FileNotFoundError):
            return self._unusable(address, done, error)
        if any(words in str(error) for words in NO_BUCKET_WORDS):
            return self._no_bucket(address)
        return ObjectMissing(f"'{address}' is not there.")

    def _no_bucket(self, address: ObjectAddress) -> FileUnreachable:
        bucket = f"{address.kind}://{address.bucket}"
        return FileUnreachable(f"The bucket '{bucket}' is not there; make it, or mend {self._said(address)}.")

    def _unusable(self, address: ObjectAddress, done: str, error: Exception) -> FileUnreachable:
        for copies in (False, True):  # so that keys are read again
            self._stores.pop((address.kind, address.bucket, copies), None)
        found = CODE.search(str(error)) or STATUS.search(str(error))
        code = found.group(1) if found else ""
        if code in NO_BUCKET_WORDS:  # as some answer when they are to list it
            return self._no_bucket(address)
        if code in WRONG_KEYS or type(error).__name__ == "UnauthenticatedError":
            bucket, keys = f"{address.kind}://{address.bucket}", self._said(address)
            return FileUnreachable(f"'{bucket}' refuses the keys of {keys} ({code}); '{address.key}' was not {done}.")
        if type(error).__name__ == "PermissionDeniedError":
            return FileUnreachable(f"'{address}' may not be {done} with the keys of {self._said(address)} ({code}).")
        if code:
            return FileUnreachable(f"'{address}' could not be {done}: the store answers with an error ({code}).")
        if any(words in str(error) for words in OTHER_KIND_WORDS):
            kind = f"one of kind {address.kind}"
            return FileUnreachable(f"'{address}' could not be {done}: the store answers, but not as {kind} does.")
        return FileUnreachable(f"'{address}' could not be {done}: the store does not answer.")

    def _said(self, address: ObjectAddress) -> str:
        place = self._place_of(address)
        return place.said if place else "storage"


def _library() -> Any:
    try:
        importlib.import_module("obstore.store")
        return importlib.import_module("obstore")
    except ImportError:
        raise FileUnreachable(
            "Object stores need the package obstore, which is not installed here: pip install obstore."
        ) from None


def _s3_config(place: StoragePlace, bucket: str) -> dict[str, Any]:
    # Deleted one by one: OSS has no call for many that fits.
    config: dict[str, Any] = {"disable_bulk_delete": True}
    if place.region:
        config["region"] = place.region
    if place.name:
        config["virtual_hosted_style_request"] = place.virtual_hosted
    if place.endpoint:
        config["endpoint"] = _with_bucket(place.endpoint, bucket) if place.virtual_hosted else place.endpoint
    return config


def _with_bucket(endpoint: str, bucket: str) -> str:
    """The library wants a bucket that is part of the host's name to be in it."""
    parts = urlsplit(endpoint)
    return urlunsplit(parts._replace(netloc=f"{bucket}.{parts.netloc}"))


def _gcs_config(place: StoragePlace, secrets: Mapping[str, str]) -> dict[str, Any]:
    config = {"base_url": place.endpoint} if place.endpoint else {}
    if "service_account" in secrets:
        config["service_account_key"] = secrets["service_account"]
    return config


def _azure_config(place: StoragePlace, secrets: Mapping[str, str]) -> dict[str, Any]:
    config = {"account_name": place.account} if place.account else {}
    if place.endpoint:
        config["endpoint"] = place.endpoint
    if "account_key" in secrets:
        config["account_key"] = secrets["account_key"]
    if "sas" in secrets:
        config["sas_key"] = secrets["sas"]
    return config
