"""Makes ``host_envs`` and ``host_play`` importable, here and in worker processes, whatever pytest's import mode is."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
