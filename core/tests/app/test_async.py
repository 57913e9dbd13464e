"""Tasks that are coroutines: in a thread, on a running loop, called like functions."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import threading
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any

import pytest

from kern import loops, states
from kern.app import Kern
from kern.errors import SoftTimeLimitExceeded
from kern.loops import complete, interruptible
from kern.task import AsyncTask, Task
from kern_testing.waiting import eventually

from .conftest import Bench

where: ContextVar[str] = ContextVar("where", default="nowhere")


class TestInAThread:
    def test_a_task_may_be_a_coroutine(self, bench: Bench) -> None:
        async def body(self: Any, x: int) -> Any:
            await asyncio.sleep(0)
            return x, self.request.id

        result = bench.app.task(bind=True)(body).delay(5)
        bench.run_one()
        assert result.get(timeout=5) == [5, result.id]

    def test_its_errors_are_failures(self, bench: Bench) -> None:
        async def body() -> None:
            await asyncio.sleep(0)
            raise KeyError("x")

        bench.app.task(body).delay()
        assert bench.run_one().summary == "KeyError('x')"

    def test_one_loop_serves_all_tasks_of_a_thread(self, bench: Bench) -> None:
        """So that what one task has connected to is still good for the next."""
        seen: list[Any] = []

        async def body() -> None:
            seen.append(asyncio.get_running_loop())

        task = bench.app.task(body)
        for _ in range(2):
            task.delay()
        bench.run()
        assert seen[0] is seen[1]

    def test_what_it_started_and_did_not_wait_for_ends_with_it(self) -> None:
        ended: list[str] = []

        async def beside() -> None:
            try:
                await asyncio.sleep(60)  # the task's own duration
            finally:
                ended.append("beside")

        async def numbers() -> Any:
            try:
                yield 1
            finally:
                ended.append("generator")

        async def body() -> None:
            asyncio.get_running_loop().create_task(beside())
            await asyncio.sleep(0)
            async for _ in numbers():
                break

        complete(body())
        gc.collect()
        complete(asyncio.sleep(0))
        assert sorted(ended) == ["beside", "generator"]

    def test_it_sees_the_context_of_its_caller(self) -> None:
        async def body() -> str:
            return where.get()

        token = where.set("here")
        try:
            assert complete(body()) == "here"
        finally:
            where.reset(token)

    def test_inside_a_running_loop_it_gets_a_thread_of_its_own(self, app: Kern) -> None:
        async def body(self: Any) -> Any:
            await asyncio.sleep(0)
            return threading.current_thread() is not threading.main_thread(), self.request.id, where.get()

        task = app.task(bind=True)(body)

        async def main() -> Any:
            where.set("main")
            return task.apply(task_id="mine").get()

        assert asyncio.run(main()) == (True, "mine", "main")

    def test_errors_come_out_of_that_thread(self) -> None:
        async def fail() -> None:
            raise KeyError("x")

        async def main() -> None:
            complete(fail())

        with pytest.raises(KeyError):
            asyncio.run(main())

    def test_a_forked_process_has_a_loop_of_its_own(self, tmp_path: Any) -> None:
        async def current() -> int:
            return id(asyncio.get_running_loop())

        ours = complete(current())
        seen = tmp_path / "seen"
        pid = os.fork()
        if pid == 0:
            try:
                theirs = complete(current())
                seen.write_text(f"{theirs != ours} {len(loops._inherited)}")
            finally:
                os._exit(0)
        os.waitpid(pid, 0)
        assert seen.read_text() == "True 1"
        assert complete(current()) == ours


class TestInterruptions:
    def interrupted(self, coroutine: Callable[[threading.Event], Any]) -> Any:
        """What comes of a coroutine in whose thread SoftTimeLimitExceeded is raised once it has begun."""
        begun, outcome = threading.Event(), []

        def run() -> None:
            try:
                outcome.append(complete(coroutine(begun)))
            except BaseException as error:
                outcome.append(error)

        thread = threading.Thread(target=run)
        thread.start()
        assert begun.wait(10)
        what = ctypes.py_object(SoftTimeLimitExceeded)
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), what)
        thread.join(10)
        return outcome[0]

    def test_a_soft_time_limit_is_raised_inside_the_coroutine(self) -> None:
        async def body(begun: threading.Event) -> str:
            try:
                while True:
                    begun.set()
                    await asyncio.sleep(0.001)  # the task's own duration
            except SoftTimeLimitExceeded:
                await asyncio.sleep(0)
                return "cleaned up"

        assert self.interrupted(body) == "cleaned up"

    def test_what_is_not_caught_comes_out(self) -> None:
        async def body(begun: threading.Event) -> None:
            while True:
                begun.set()
                await asyncio.sleep(0.001)  # the task's own duration

        assert isinstance(self.interrupted(body), SoftTimeLimitExceeded)

    def test_on_a_running_loop_a_cancellation_may_stand_for_one(self, bench: Bench) -> None:
        begun = asyncio.Event()

        async def body() -> str:
            try:
                begun.set()
                await asyncio.sleep(60)  # the task's own duration
            except SoftTimeLimitExceeded:
                async with asyncio.timeout(60):  # the cancellation is over and done with
                    await asyncio.sleep(0)
                return "cleaned up"
            return "never"

        bench.app.task(name="t")(body).delay()
        (delivery,) = bench.claim()
        runner, request = bench.app.runner("w@here"), bench.request(delivery)

        async def main() -> Any:
            interruptions: list[BaseException] = []
            running = asyncio.ensure_future(runner.arun(request, interruptions))
            await begun.wait()
            interruptions.append(SoftTimeLimitExceeded())
            running.cancel()
            return await running

        outcome = asyncio.run(main())
        assert (outcome.state, outcome.summary) == (states.SUCCESS, "'cleaned up'")

    def test_a_cancellation_of_its_own_is_one(self) -> None:
        async def body() -> str:
            try:
                await asyncio.sleep(60)  # the task's own duration
            except asyncio.CancelledError:
                return "cancelled"
            return "never"

        async def main() -> str:
            running = asyncio.ensure_future(interruptible(body(), []))
            await asyncio.sleep(0)
            running.cancel()
            return await running

        assert asyncio.run(main()) == "cancelled"


class TestOnALoop:
    def test_many_tasks_run_side_by_side_each_with_its_own_request(self, bench: Bench) -> None:
        together = 0
        most = 0

        async def body(self: Any, number: int) -> Any:
            nonlocal together, most
            together += 1
            most = max(most, together)
            await asyncio.sleep(0.02)  # the task's own duration
            together -= 1
            return number, self.request.id

        task = bench.app.task(bind=True, name="t")(body)
        results = bench.app.send_many([task.s(n) for n in range(20)])
        runner = bench.app.runner("w@here")

        async def main() -> Any:
            return await asyncio.gather(*(runner.arun(bench.request(delivery)) for delivery in bench.claim()))

        bench.settle(asyncio.run(main()))
        assert [result.get(timeout=5) for result in results] == [[n, r.id] for n, r in enumerate(results)]
        assert most == 20

    @pytest.mark.parametrize(
        ("body", "state"),
        [
            (lambda self: 1, states.SUCCESS),
            (lambda self: 1 / 0, states.FAILURE),
            (lambda self: self.retry(), states.RETRY),
        ],
    )
    def test_plain_functions_end_the_same(self, bench: Bench, body: Any, state: str) -> None:
        bench.app.task(bind=True, name="t")(body).delay()
        (delivery,) = bench.claim()
        outcome = asyncio.run(bench.app.runner("w@here").arun(bench.request(delivery)))
        assert outcome.state == state

    def test_what_cannot_run_has_an_outcome_too(self, bench: Bench) -> None:
        bench.app.task(name="t")(lambda: 1).delay()
        (delivery,) = bench.claim()
        request = bench.request(delivery)
        request.task = "unknown"
        assert asyncio.run(bench.app.runner("w@here").arun(request)).state == states.FAILURE


class TestCalledLikeAFunction:
    def test_it_gives_a_coroutine_that_runs_as_the_task(self, app: Kern) -> None:
        async def body(self: Any, x: int) -> Any:
            await asyncio.sleep(0)
            return x, app.current_task is self, self.request.called_directly

        task = app.task(bind=True)(body)

        async def main() -> Any:
            return await asyncio.gather(task(1), task(2))

        assert asyncio.run(main()) == [(1, True, True), (2, True, True)]

    @pytest.mark.parametrize("base", [Task, AsyncTask])
    def test_a_call_of_the_class_is_around_it(self, bench: Bench, base: Any) -> None:
        seen: list[str] = []

        class InContext(base):  # type: ignore[misc]
            def __call__(self, *args: Any, **kwargs: Any) -> Any:
                seen.append("called")
                return super().__call__(*args, **kwargs)

        async def body(self: Any) -> str:
            return str(self.request.id)

        task = bench.app.task(base=InContext, bind=True)(body)
        result = task.delay()
        bench.run_one()
        assert (seen, result.get(timeout=5)) == (["called"], result.id)
        assert isinstance(task, AsyncTask)

    def test_so_does_one_of_a_class(self, app: Kern) -> None:
        class Fetch(Task[..., Any]):
            name = "fetch"

            async def run(self, x: int) -> Any:
                await asyncio.sleep(0)
                return x, self.request.called_directly, app.current_task is self

        task = app.register_task(Fetch)
        assert asyncio.run(task(3)) == (3, True, True)
        assert task.apply((4,)).get() == (4, False, True)


def test_a_loop_is_closed_with_its_thread() -> None:
    seen: list[Any] = []

    async def body() -> None:
        seen.append(asyncio.get_running_loop())

    thread = threading.Thread(target=lambda: complete(body()))
    thread.start()
    thread.join(10)
    eventually(lambda: gc.collect() is not None and seen[0].is_closed(), "the loop is closed")
