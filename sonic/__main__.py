"""``python -m sonic`` from a checkout: the files of the engine sonic, listed and converted."""

import sys

from .model_commands import main

sys.exit(main())
