"""``python -m queue_bridge`` from a checkout is the command sonic-queue."""

import sys

from .cli import main

sys.exit(main())
