"""Runs a program that ends when its starter ends, however that happens: the starter holds our standard input open.

    python end_with_starter.py LOCK program [arguments]

LOCK is a file descriptor that the program keeps open. A plain script, so that it starts fast.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading

GRACE_S = 5.0


def main() -> int:
    lock, command = int(sys.argv[1]), sys.argv[2:]
    program = subprocess.Popen(command, stdin=subprocess.DEVNULL, pass_fds=(lock,))
    os.close(lock)  # the program's copy alone says that it lives
    signal.signal(signal.SIGTERM, lambda *_: program.terminate())

    def watch() -> None:
        while os.read(0, 1024):
            pass
        program.terminate()
        try:
            program.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            program.kill()

    threading.Thread(target=watch, name="end_with_starter", daemon=True).start()
    return program.wait()


if __name__ == "__main__":
    sys.exit(main())
