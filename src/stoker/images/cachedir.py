"""Where things are kept that can be made again and that all servers of a machine may share."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import platformdirs


def default_cache() -> Path:
    """/var/cache/stoker for root on Linux, the user's cache directory otherwise."""
    if sys.platform == "linux" and os.geteuid() == 0:
        return Path("/var/cache/stoker")
    return Path(platformdirs.user_cache_dir("stoker", appauthor=False))
