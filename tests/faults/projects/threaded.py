"""An application that starts threads when it is imported, as error reporters and tracers do."""

import logging
import threading
import time

from project import app

__all__ = ["app"]

THREADS = 50
_lock = threading.Lock()


def _report() -> None:
    """Always about to take a lock, or holding one: what a fork in the middle of it leaves locked for ever."""
    while True:
        with _lock:
            logging.getLogger("reporter").debug("nothing to report")
        time.sleep(0.02)  # the task's own duration


for number in range(THREADS):
    threading.Thread(target=_report, name=f"reporter-{number}", daemon=True).start()
