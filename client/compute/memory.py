"""Keeps freed memory in the process, where a training step will want it again.

glibc gives every large buffer back to the system and asks for it anew, page by page: at the size of
a logit tensor that is a good part of a step. `simulations/benchmarks/allocator.py` measures it.
"""

from __future__ import annotations

import ctypes
import sys

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_LARGEST_BUFFER = 1 << 30
_NEVER = (1 << 31) - 1


def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep freed memory; return whether it accepted the setting.

    Does nothing with any other allocator. The process stays as large as it has ever been.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    kept = mallopt(_M_MMAP_THRESHOLD, _LARGEST_BUFFER) and mallopt(_M_TRIM_THRESHOLD, _NEVER)
    return bool(kept)
