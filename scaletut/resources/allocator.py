"""The C library's allocator: keep freed memory instead of giving it back to the system after each step."""

from __future__ import annotations

import ctypes
import sys

# mallopt's parameters (malloc.h) and the largest values that it takes.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
NEVER_TRIM, LARGEST_FROM_HEAP = 2**31 - 1, 2**30


def keep_freed_memory() -> bool:
    """Let this process keep what it frees, for its whole life; True where that could be arranged.

    A training step on a CPU asks for the same large blocks again and again. Beyond 32 MB glibc maps each one anew, and
    the kernel clears every page of it on first touch; kept blocks are reused as they are. The price: the process holds
    its peak memory until it ends. Only glibc (most Linux systems) has this; on a GPU torch keeps memory by itself.
    Source: mallopt(3), M_MMAP_THRESHOLD and M_TRIM_THRESHOLD.
    """
    if not can_keep():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(MMAP_THRESHOLD, LARGEST_FROM_HEAP)) and bool(mallopt(TRIM_THRESHOLD, NEVER_TRIM))


def can_keep() -> bool:
    """Whether the C library is glibc, whose `mallopt` does something (musl has one that does not)."""
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "gnu_get_libc_version")
