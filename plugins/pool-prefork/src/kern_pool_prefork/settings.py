"""What the pool can be told."""

from __future__ import annotations

from kern.settings import Section, setting


class PreforkSettings(Section):
    """How processes of the pool are made."""

    worker_proc_alive_timeout: float = setting(
        4.0, "Seconds a new process may take until it is ready; then it is replaced.", unit="s"
    )
    worker_pool_start_method: str | None = setting(
        None,
        "How processes are made: fork, or spawn (a fresh interpreter, which loads the application again). "
        "Unset: fork, unless importing the application has started threads.",
        choices=(None, "fork", "spawn"),
    )
