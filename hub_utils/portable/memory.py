"""Memory that nobody needs any more."""

import ctypes
from contextlib import suppress


def give_back() -> None:
    """Memory that has been freed, to the system: reading and compiling leave some tens of MB of it."""
    with suppress(OSError, AttributeError, TypeError):  # other systems, and other libraries of C, do not know how
        ctypes.CDLL(None).malloc_trim(0)
