"""Tells Kubernetes which pods to end first when it scales down: those that run no job.

Runs in the cluster with Python's standard library only (deletion-cost.yaml). It asks the gateway's /autoscale who is
busy, and writes the annotation controller.kubernetes.io/pod-deletion-cost of a pod when that has changed. It is a wish:
a busy pod that is ended all the same finishes its job within its grace, or gives it back.
"""

from __future__ import annotations

import json
import logging
import os
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

COST = "controller.kubernetes.io/pod-deletion-cost"
BUSY, IDLE = "100", "0"
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EVERY_S = 10.0


def changes(scale: Mapping[str, Any], told: Mapping[str, str]) -> dict[str, str]:
    """By pod, the cost that it has now and was not told yet. scale: what /autoscale answers, by names of pods."""
    wanted = {one["name"]: BUSY if one["busy"] else IDLE for one in scale["instances"]}
    return {name: cost for name, cost in wanted.items() if told.get(name) != cost}


def patch_of(cost: str) -> bytes:
    """The change of a pod, as a merge patch."""
    return json.dumps({"metadata": {"annotations": {COST: cost}}}).encode()


def ask(url: str, token: str, body: bytes | None = None, context: ssl.SSLContext | None = None) -> Any:
    """A GET, or a PATCH with this body; its answer as plain data."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/merge-patch+json"}
    request = urllib.request.Request(url, body, headers, method="PATCH" if body else "GET")
    with urllib.request.urlopen(request, timeout=10, context=context) as answer:
        return json.load(answer)


def main() -> None:
    """Look every few seconds, for ever."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    api = f"https://{os.environ['KUBERNETES_SERVICE_HOST']}:{os.environ['KUBERNETES_SERVICE_PORT']}"
    pods = f"{api}/api/v1/namespaces/{(ACCOUNT / 'namespace').read_text()}/pods"
    trusted = ssl.create_default_context(cafile=str(ACCOUNT / "ca.crt"))
    told: dict[str, str] = {}
    while True:
        try:
            scale = ask(os.environ["AUTOSCALE_URL"], os.environ["GATEWAY_KEY"])
            for name, cost in changes(scale, told).items():
                try:
                    ask(f"{pods}/{name}", (ACCOUNT / "token").read_text(), patch_of(cost), trusted)
                except urllib.error.HTTPError as error:
                    if error.code != 404:  # a server that is no pod of ours
                        raise
                told[name] = cost
            told = {name: cost for name, cost in told.items() if name in {one["name"] for one in scale["instances"]}}
        except (OSError, ValueError, KeyError) as error:
            logging.warning("%s; tried again in %g s", error, EVERY_S)
        time.sleep(EVERY_S)


if __name__ == "__main__":
    main()
