"""How a process that trains deals with memory."""

import contextlib
import ctypes
import functools

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER = 2**31 - 1


@functools.cache
def keep_freed_memory() -> None:
    """From now on this process keeps the memory that it frees, where its C library is glibc.

    A step frees and takes the same blocks of megabytes again and again. Given back to the system each time, each of
    their pages is cleared and mapped again when it is next touched.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):  # Another C library.
        mallopt = ctypes.CDLL(None).mallopt
        # Older versions refuse more than 32 MiB. Where both are refused, the other setting alone would do harm.
        if any(mallopt(_MMAP_THRESHOLD, size) for size in (2**30, 2**25)):
            mallopt(_TRIM_THRESHOLD, _NEVER)
