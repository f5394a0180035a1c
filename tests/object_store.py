"""A real S3 server on this machine, with users, keys and policies, for one test session."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from comfyui_sonic.queue_bridge.fetch_limits import Limits
from comfyui_sonic.queue_bridge.places.storage import Storage
from comfyui_sonic.queue_bridge.storage_places import SecretSource, StoragePlace

REGION = "us-east-1"
LIMITS = Limits(bytes=20_000_000, total_s=20.0, idle_s=5.0)
BUCKETS = ("orders", "videos", "closed")


@dataclass(frozen=True)
class ObjectStore:
    """A server with the buckets orders, videos and closed; key_id may do everything but in closed.

    admin: a client that may do everything.
    """

    endpoint: str
    key_id: str
    secret: str
    admin: Any

    def place(self, *buckets: str, endpoint: str = "") -> StoragePlace:
        secrets = {"key_id": SecretSource(env="STORE_KEY_ID"), "secret_key": SecretSource(env="STORE_SECRET")}
        return StoragePlace(
            "shop", "s3", buckets or ("orders", "videos"), endpoint or self.endpoint, REGION, secrets=secrets
        )

    def environment(self) -> dict[str, str]:
        return {"STORE_KEY_ID": self.key_id, "STORE_SECRET": self.secret}

    def storage(self, *buckets: str, endpoint: str = "", limits: Limits = LIMITS, **environment: str) -> Storage:
        return Storage([self.place(*buckets, endpoint=endpoint)], limits, {**self.environment(), **environment})

    def toml(self) -> str:
        """The table of a settings file for it."""
        return (
            '[storage.shop]\nkind = "s3"\nbuckets = ["orders", "videos", "closed", "gone"]\n'
            f'endpoint = "{self.endpoint}"\nregion = "{REGION}"\n'
            'key_id_env = "STORE_KEY_ID"\nsecret_key_env = "STORE_SECRET"\n'
        )

    def put(self, bucket: str, key: str, content: bytes) -> None:
        self.admin.put_object(Bucket=bucket, Key=key, Body=content)

    def get(self, bucket: str, key: str) -> bytes:
        return bytes(self.admin.get_object(Bucket=bucket, Key=key)["Body"].read())

    def keys(self, bucket: str, prefix: str = "") -> list[str]:
        found = self.admin.list_objects_v2(Bucket=bucket, Prefix=prefix)
        return [one["Key"] for one in found.get("Contents", ())]


def run_object_store() -> Iterator[ObjectStore]:
    """Start the server; a generator for a fixture."""
    import boto3  # here, as these are large and most tests need none of them
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        endpoint = f"http://{host}:{port}"
        common = {"endpoint_url": endpoint, "region_name": REGION}
        anybody = {"aws_access_key_id": "setup", "aws_secret_access_key": "setup"}
        iam = boto3.client("iam", **common, **anybody)
        everything = _user(iam, "admin", ["arn:aws:s3:::*"])
        open_to_shop = [f"arn:aws:s3:::{name}" for name in ("orders", "videos", "gone")]
        some = _user(iam, "shop", [*open_to_shop, *(f"{bucket}/*" for bucket in open_to_shop)])
        check_keys(endpoint, True)
        admin = boto3.client("s3", **common, **everything)
        for bucket in BUCKETS:
            admin.create_bucket(Bucket=bucket)
        yield ObjectStore(endpoint, some["aws_access_key_id"], some["aws_secret_access_key"], admin)
    finally:
        server.stop()


def check_keys(endpoint: str, wanted: bool) -> None:
    """Whether the server checks keys; it does not understand addresses that are signed, so these are tried without."""
    import requests

    unchecked = b"0" if wanted else b"inf"
    requests.post(f"{endpoint}/moto-api/reset-auth", data=unchecked, timeout=10).raise_for_status()


def _user(iam: Any, name: str, resources: list[str]) -> dict[str, str]:
    iam.create_user(UserName=name)
    statement = {"Effect": "Allow", "Action": "s3:*", "Resource": resources}
    policy = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
    iam.put_user_policy(UserName=name, PolicyName="s3", PolicyDocument=policy)
    key = iam.create_access_key(UserName=name)["AccessKey"]
    return {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
