"""Keeping memory shared between the main process and what is forked from it.

What is written to after the fork is shared no longer, and the garbage collector writes to all that it looks at, as does
whoever looks at all values of all modules. So that is done before, and what is there is frozen.
"""

from __future__ import annotations

import ctypes
import gc
from typing import TYPE_CHECKING

from kern.errors import ImproperlyConfigured

if TYPE_CHECKING:
    from kern import Kern


def prepare(app: Kern, hostname: str) -> None:
    """Make ready for the fork; before a pool is made, which is not to be frozen itself."""
    app.runner(hostname)  # with all that has to be imported for it
    try:
        _ = app.import_path  # remembered by the application
    except ImproperlyConfigured:
        pass
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError):
        pass  # another C library
    gc.freeze()


def end() -> None:
    """What was frozen may be collected again."""
    gc.unfreeze()
