"""Which object stores the operator has set up, and which of their buckets jobs may name; addresses of objects.

Keys are never in a setting: a place names the variable or the file that holds one, and it is read when it is used.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from urllib.parse import urlsplit

from .errors import BadJob, ConfigError

KINDS: Mapping[str, str] = MappingProxyType(
    {"s3": "S3 and what speaks like it", "gs": "Google Cloud Storage", "az": "Azure Blob Storage"}
)
# What each kind may hold beside buckets, endpoint and ca_file. A secret is given as NAME_env or NAME_file.
PLAIN: Mapping[str, tuple[str, ...]] = MappingProxyType({"s3": ("region",), "gs": (), "az": ("account",)})
SECRETS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "s3": ("key_id", "secret_key", "session_token"),
        "gs": ("service_account",),
        "az": ("account_key", "sas"),
    }
)
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,100}")
KEY_CHARACTERS = 900  # 1024 bytes are the stores' limit, and names beside it are longer
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,40}")


@dataclass(frozen=True)
class ObjectAddress:
    """An object, or all of those under a prefix: ``s3://bucket/key``. key: without a slash at its beginning."""

    kind: str
    bucket: str
    key: str

    def __str__(self) -> str:
        return f"{self.kind}://{self.bucket}/{self.key}"

    @property
    def name(self) -> str:
        """The last part of its key."""
        return self.key.rpartition("/")[2]

    def inside(self, name: str) -> ObjectAddress:
        """An object below this one, taken as a folder."""
        return ObjectAddress(self.kind, self.bucket, f"{self.key}/{name}")

    def beside(self, name: str) -> ObjectAddress:
        """Another object under the same prefix."""
        folder, slash, _ = self.key.rpartition("/")
        return ObjectAddress(self.kind, self.bucket, f"{folder}{slash}{name}")


@dataclass(frozen=True)
class SecretSource:
    """Where a secret is: the name of a variable, or of a file."""

    env: str = ""
    file: str = ""


@dataclass(frozen=True)
class StoragePlace:
    """One object store. name: of its table, '' for what the provider's own variables describe.

    buckets: those that jobs may name, each with a prefix behind a slash when only that may be named.
    """

    name: str
    kind: str
    buckets: tuple[str, ...]
    endpoint: str = ""
    region: str = ""
    virtual_hosted: bool = False
    account: str = ""
    ca_file: str = ""
    secrets: Mapping[str, SecretSource] = field(default_factory=dict)

    @property
    def said(self) -> str:
        """What a sentence calls it."""
        return f"[storage.{self.name}]" if self.name else "the variables of the environment"

    def allows(self, address: ObjectAddress) -> bool:
        for allowed in self.buckets:
            bucket, _, prefix = allowed.partition("/")
            if (self.kind, bucket) == (address.kind, address.bucket) and (
                not prefix or address.key.startswith(prefix.rstrip("/") + "/")
            ):
                return True
        return False


def is_object(uri: str) -> bool:
    """Whether an address of a job is that of an object in a store."""
    return uri.partition("://")[0].lower() in KINDS and "://" in uri


def object_address(uri: str, what: str) -> ObjectAddress:
    """The object that a URI names; what: the field that holds it.

    Raises BadJob, which does not repeat what may be secret.
    """
    kind, _, rest = uri.partition("://")
    bucket, _, key = rest.partition("/")
    if not BUCKET.fullmatch(bucket):
        raise BadJob(what, f"the address names no bucket; write {kind.lower()}://bucket/key.")
    if "?" in key or "#" in key or any(ord(letter) < 32 or letter in "\\\x7f" for letter in key):
        raise BadJob(what, f"the key in bucket '{bucket}' holds characters that are not taken here (?, #, \\).")
    if len(key.encode(errors="replace")) > KEY_CHARACTERS:
        raise BadJob(what, f"the key in bucket '{bucket}' is longer than {KEY_CHARACTERS} bytes.")
    if any(part in ("", ".", "..") for part in key.split("/")):
        raise BadJob(what, f"'{key}' in bucket '{bucket}' is no key of a file; it has an empty part, '.' or '..'.")
    return ObjectAddress(kind.lower(), bucket, key)


def places_of_buckets(buckets: Sequence[str]) -> tuple[StoragePlace, ...]:
    """Places for ``s3://bucket`` and the like, that the provider's own variables describe. Raises ConfigError."""
    found: dict[str, list[str]] = {}
    for text in buckets:
        kind, colon, bucket = text.partition("://")
        if not colon or kind not in KINDS or not _is_bucket(bucket):
            raise ConfigError("buckets", f"'{text}' is no bucket; write s3://bucket, gs://bucket or az://container.")
        found.setdefault(kind, []).append(bucket.rstrip("/"))
    return tuple(StoragePlace("", kind, tuple(names)) for kind, names in found.items())


def places_of_tables(tables: Any) -> tuple[StoragePlace, ...]:
    """The tables ``[storage.NAME]`` of the file. Raises ConfigError that names what is wrong, and no secret."""
    if not isinstance(tables, Mapping):
        raise ConfigError("storage", "is no setting of one line; write tables [storage.NAME] into the file.")
    return tuple(_place(name, table) for name, table in tables.items())


def check_places(places: Sequence[StoragePlace]) -> None:
    """Raises ConfigError when two places claim the same bucket, as nobody could tell whose keys are meant."""
    taken: dict[tuple[str, str], StoragePlace] = {}
    for place in places:
        for allowed in place.buckets:
            bucket = allowed.partition("/")[0]
            other = taken.setdefault((place.kind, bucket), place)
            if other is not place:
                raise ConfigError("storage", f"{place.kind}://{bucket} is in {other.said} and in {place.said}.")


def _place(name: str, table: Any) -> StoragePlace:
    where = f"storage.{name}"
    if not NAME.fullmatch(name) or not isinstance(table, Mapping):
        raise ConfigError(where, "is no table [storage.NAME].")
    kind = _text(where, table, "kind")
    if kind not in KINDS:
        raise ConfigError(f"{where}.kind", f"is none of {', '.join(KINDS)}.")
    _check_names(where, kind, table)
    return StoragePlace(
        name,
        kind,
        _buckets(where, table.get("buckets")),
        endpoint=_endpoint(where, _text(where, table, "endpoint")),
        region=_text(where, table, "region"),
        virtual_hosted=_truth(where, table, "virtual_hosted"),
        account=_text(where, table, "account"),
        ca_file=_text(where, table, "ca_file"),
        secrets=_secrets(where, kind, table),
    )


def _check_names(where: str, kind: str, table: Mapping[str, Any]) -> None:
    secrets = [f"{name}_{source}" for name in SECRETS[kind] for source in ("env", "file")]
    known = ["kind", "buckets", "endpoint", "ca_file", *PLAIN[kind], *secrets]
    known += ["virtual_hosted"] if kind == "s3" else []
    for name in table:
        if name in SECRETS[kind]:
            sources = f"name its variable ({name}_env) or its file ({name}_file)."
            raise ConfigError(f"{where}.{name}", f"a secret does not belong into this file; {sources}")
        if name not in known:
            raise ConfigError(
                f"{where}.{name}", f"is no setting of a place of kind {kind}; those are {', '.join(known)}."
            )


def _secrets(where: str, kind: str, table: Mapping[str, Any]) -> Mapping[str, SecretSource]:
    found = {}
    for name in SECRETS[kind]:
        source = SecretSource(_text(where, table, f"{name}_env"), _text(where, table, f"{name}_file"))
        if source.env and source.file:
            raise ConfigError(f"{where}.{name}_file", f"stands beside {name}_env; one of them is enough.")
        if source.env or source.file:
            found[name] = source
    if kind == "s3" and ("key_id" in found) is not ("secret_key" in found):
        raise ConfigError(where, "key_id and secret_key belong together, and one of them is missing.")
    return found


def _buckets(where: str, given: Any) -> tuple[str, ...]:
    if not isinstance(given, list) or not given:
        raise ConfigError(f"{where}.buckets", "is no list of the buckets that jobs may name.")
    for text in given:
        if not isinstance(text, str) or not _is_bucket(text):
            raise ConfigError(f"{where}.buckets", f"'{text}' is no name of a bucket, nor bucket/prefix.")
    return tuple(text.rstrip("/") for text in given)


def _is_bucket(text: str) -> bool:
    bucket, _, prefix = text.rstrip("/").partition("/")
    return bool(BUCKET.fullmatch(bucket)) and not any(part in (".", "..") for part in prefix.split("/"))


def _endpoint(where: str, text: str) -> str:
    if not text:
        return ""
    try:
        parts = urlsplit(text)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and "@" not in parts.netloc
        usable = usable and not parts.query and not parts.fragment
    except ValueError:
        usable = False
    if not usable:  # its text may hold a password
        raise ConfigError(f"{where}.endpoint", "is no address such as https://oss-cn-hangzhou.aliyuncs.com.")
    return text.rstrip("/")


def _text(where: str, table: Mapping[str, Any], name: str) -> str:
    value = table.get(name, "")
    if not isinstance(value, str):
        raise ConfigError(f"{where}.{name}", "is no text.")
    return value


def _truth(where: str, table: Mapping[str, Any], name: str) -> bool:
    value = table.get(name, False)
    if not isinstance(value, bool):
        raise ConfigError(f"{where}.{name}", "is not true or false.")
    return value
