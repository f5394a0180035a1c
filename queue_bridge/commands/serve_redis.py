"""``sonic-queue serve-redis``: the queue's own database server for as long as the command runs."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

from ..database.redis_connection import safe_url
from ..database.redis_server import RedisServer
from ..errors import RedisServerError

CHECK_S = 1.0


def serve_redis(data: Path, port: int | None, *, durable: bool, as_json: bool) -> int:
    """Run until Ctrl-C or SIGTERM. Prints what clients need; with a port that includes the password."""
    # In the terminal it ends with the command; one that runs already is left as it is.
    with RedisServer(data, port=port, durable=durable, outlives_us=False) as server:
        if as_json:
            sys.stdout.write(json.dumps({"url": server.url, "data": str(server.data_directory)}) + "\n")
        else:
            verb = "Serving" if server.started_here else "Already served by another process:"
            sys.stdout.write(f"{verb} {server.data_directory}\n  SONIC_QUEUE_URL={server.url}\n")
        sys.stdout.flush()
        while server.is_alive():
            time.sleep(CHECK_S)
        where = safe_url(server.url)
        raise RedisServerError(f"The server at {where} has ended; its log is in {server.data_directory}.")
