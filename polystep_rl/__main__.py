"""``python -m polystep_rl`` is the command ``polystep-rl``."""

import sys

from polystep_rl.cli import main

if __name__ == "__main__":
    sys.exit(main())
