"""Tasks of whichever application there is, for libraries that define tasks and do not know who will run them."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Coroutine, Mapping
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, overload

from kern.decorators import BoundTaskDecorator, TaskDecorator
from kern.errors import ImproperlyConfigured
from kern.task import AsyncTask, Task, running

if TYPE_CHECKING:
    from kern.app import Kern

P = ParamSpec("P")
R = TypeVar("R")


class SharedTask:
    """A task defined for whichever application there is: finds its own when it is used."""

    def __init__(self, fun: Callable[..., Any], options: Mapping[str, Any]) -> None:
        self.__wrapped__ = fun
        self._options = options
        self.__name__, self.__qualname__ = fun.__name__, fun.__qualname__
        self.__doc__, self.__module__ = fun.__doc__, fun.__module__

    def define_on(self, app: Kern) -> None:
        """Make it a task of *app*."""
        app.task(**self._options)(self.__wrapped__)

    def _task(self) -> Task[Any, Any]:
        entry = running()
        app = entry.task.app if entry is not None else shared_tasks.only_app(self.__name__)
        return app.tasks[self._options.get("name") or app.gen_task_name(self.__name__, self.__module__)]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._task()(*args, **kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python asks of any object is not for the task to answer
            raise AttributeError(name)
        return getattr(self._task(), name)

    def __repr__(self) -> str:
        return f"<@shared_task: {self.__module__}.{self.__name__}>"

    def __reduce__(self) -> str:
        return self.__qualname__


class SharedTasks:
    """Definitions made by ``@shared_task``, for every application of the process.

    The one declared global: a library that defines tasks does not know the application that will run them.
    """

    def __init__(self) -> None:
        self._definitions: list[SharedTask] = []
        self._apps: weakref.WeakSet[Kern] = weakref.WeakSet()
        self._closed: weakref.WeakSet[Kern] = weakref.WeakSet()

    def adopt(self, app: Kern) -> None:
        """*app* is there from now on."""
        self._apps.add(app)

    def release(self, app: Kern) -> None:
        """*app* was closed: it still has its tasks, but another that is open is rather meant where none is named."""
        self._closed.add(app)

    def add(self, definition: SharedTask) -> None:
        """A task of every application, also of those that have all others already."""
        self._definitions.append(definition)
        for app in list(self._apps):
            if app.finalized:
                definition.define_on(app)

    def define_on(self, app: Kern) -> None:
        """Make all of them tasks of *app*."""
        for definition in list(self._definitions):
            definition.define_on(app)

    def _meant(self) -> list[Kern]:
        return [app for app in self._apps if app not in self._closed] or list(self._apps)

    def only_app(self, name: str) -> Kern:
        """The application, where there is one.

        :raises ImproperlyConfigured: there is none, or more than one.
        """
        apps = self._meant()
        if len(apps) > 1:
            # One that nobody has any more may be waiting for the collector.
            del apps
            gc.collect()
            apps = self._meant()
        if len(apps) == 1:
            return apps[0]
        if not apps:
            raise ImproperlyConfigured(f"shared task {name!r} was used before an application was made: app = Kern(…)")
        raise ImproperlyConfigured(
            f"shared task {name!r} belongs to {len(apps)} applications; use it through one: app.tasks[…]"
        )


shared_tasks = SharedTasks()


@overload
def shared_task(fun: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...
@overload
def shared_task(fun: Callable[P, R], /) -> Task[P, R]: ...
@overload
def shared_task(*, bind: Literal[True], **options: Any) -> BoundTaskDecorator: ...
@overload
def shared_task(*, bind: Literal[False] = ..., **options: Any) -> TaskDecorator: ...
def shared_task(*args: Any, **options: Any) -> Any:
    """Decorator: a task of every application, for libraries that do not have one. Options as :meth:`Kern.task`."""
    if args and (len(args) > 1 or not callable(args[0])):
        raise TypeError("@shared_task takes a function, and options by name")

    def define(fun: Callable[..., Any]) -> SharedTask:
        definition = SharedTask(fun, options)
        shared_tasks.add(definition)
        return definition

    return define(args[0]) if args else define
