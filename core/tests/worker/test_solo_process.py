"""The solo pool's thread is where tasks run: it is prepared, and waiting in it is refused."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from kern import Kern, allow_join_result, hookimpl
from kern_testing.worker import WorkerThread, in_memory


@contextmanager
def working(app: Kern) -> Iterator[None]:
    with in_memory(app):
        worker = WorkerThread(app).start()
        try:
            yield
        finally:
            worker.stop()


class Process:
    """Notes the beginning and the end of a process that runs tasks."""

    def __init__(self) -> None:
        self.told: list[Any] = []

    @hookimpl
    def kern_process_init(self, app: Kern) -> None:
        self.told.append(("init", app.main))

    @hookimpl
    def kern_process_shutdown(self, app: Kern, pid: int, exitcode: int) -> None:
        self.told.append(("shutdown", exitcode))


def test_a_process_is_prepared_before_its_first_task_and_cleaned_up_after_its_last() -> None:
    app = Kern("prepared")
    process = Process()
    app.register(process)

    @app.task
    def look() -> int:
        return len(process.told)

    with working(app):
        assert look.delay().get(timeout=10) == 1
    assert process.told == [("init", "prepared"), ("shutdown", 0)]


def test_waiting_for_a_result_inside_a_task_is_refused_unless_it_is_allowed() -> None:
    app = Kern("waiting")

    @app.task
    def seven() -> int:
        return 7

    @app.task
    def waits(result_id: str, allowed: bool) -> int:
        if not allowed:
            return int(app.AsyncResult(result_id).get(timeout=1))
        with allow_join_result():
            return int(app.AsyncResult(result_id).get(timeout=10))

    with working(app):
        done = seven.delay()
        assert done.get(timeout=10) == 7
        refused = waits.delay(done.id, False)
        error = refused.get(timeout=10, propagate=False)
        assert isinstance(error, RuntimeError)
        assert "within a task" in str(error)
        assert waits.delay(done.id, True).get(timeout=10) == 7
