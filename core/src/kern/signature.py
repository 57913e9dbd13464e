"""A call as data: to be completed with more arguments, linked, stored, sent to somebody else, or made later.

A :class:`Signature` is a dict with Celery's six keys, so that what either side writes as JSON the other can read::

    {"task": "app.add", "args": [1], "kwargs": {}, "options": {}, "subtask_type": null, "immutable": false}

Chains, groups and the rest of the workflow primitives are subclasses which a plugin (``kern-canvas``) registers with
:meth:`Signature.register_type`; core rebuilds and carries them, and composing is the plugin's
(:meth:`kern.Kern.compose`).
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, cast, overload
from uuid import uuid4

from kern.errors import CapabilityMissing, ImproperlyConfigured
from kern.saferepr import MASK, saferepr

if TYPE_CHECKING:
    from typing import Self

    from kern.app import Kern
    from kern.result import AsyncResult, EagerResult
    from kern.task import Task

R = TypeVar("R", covariant=True)
S = TypeVar("S", bound="type[Signature[Any]]")

#: Kinds of signature that are made of others. Without the plugin that knows them they would run as a task named
#: ``celery.chain``, which does something else.
COMPOSED = frozenset({"chain", "group", "chord"})

#: Options that a later merge leaves as they are.
_KEPT_OPTIONS = frozenset({"group_id", "stamped_headers"})


class Signature(dict[str, Any], Generic[R]):
    """A call of one task, complete or to be completed.

    :param task: a task, its name, or a signature as a plain dict.
    :param type: the task itself, where *task* is its name.
    :param immutable: arguments that a workflow or caller would add are ignored.
    :param app: the application that makes the call; a task brings its own.
    :param ex: further options.
    """

    #: Kinds that are classes of their own, by ``subtask_type``. Filled as classes are defined and never changed after:
    #: a property of the code that is loaded, like the list of a class's subclasses.
    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}

    _app: Kern | None
    _type: Task[Any, R] | None

    def __init__(
        self,
        task: Task[Any, R] | str | Mapping[str, Any] | None = None,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        type: Task[Any, R] | None = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Kern | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        self._type = type
        if isinstance(task, Mapping):
            if "task" not in task:
                raise TypeError(f"not a signature, it has no 'task': {saferepr(task, 200)}")
            super().__init__(task)
            for key, default in (("args", ()), ("kwargs", {}), ("options", {})):
                if self.get(key) is None:
                    self[key] = default
            self.setdefault("subtask_type", None)
            self.setdefault("immutable", False)
            return
        if task is not None and not isinstance(task, str):
            self._type = task
            task = task.name
        if isinstance(args, str | bytes):
            raise TypeError(f"args is a list or tuple of arguments, not {args.__class__.__name__}")
        super().__init__(
            task=task,
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            options={**(options or {}), **ex},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- kinds ---------------------------------------------------------------------------------------------------------

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[S], S]:
        """Class decorator: signatures whose ``subtask_type`` is *name* (default: the class's) are of that class."""

        def registered(subclass: S) -> S:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return registered

    @classmethod
    def from_dict(cls, d: Mapping[str, Any], app: Kern | None = None) -> Signature[Any]:
        """The signature that *d* describes, of the class its ``subtask_type`` names.

        :raises CapabilityMissing: it is made of others, and no loaded plugin knows its kind.
        """
        kind = d.get("subtask_type")
        target = _class_of(kind, app) if kind else None
        if target is not None and target is not cls:
            return target.from_dict(d, app=app)
        return cls(d, app=app)

    # -- the six keys, and what is often asked of them -----------------------------------------------------------------

    @property
    def task(self) -> str:
        """Name of the task."""
        return cast(str, self["task"])

    @task.setter
    def task(self, name: str) -> None:
        self["task"] = name

    name = task

    @property
    def args(self) -> Sequence[Any]:
        """Positional arguments; those added later go in front."""
        return cast("Sequence[Any]", self["args"])

    @args.setter
    def args(self, args: Sequence[Any]) -> None:
        self["args"] = args

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments; those added later win."""
        return cast("dict[str, Any]", self["kwargs"])

    @kwargs.setter
    def kwargs(self, kwargs: dict[str, Any]) -> None:
        self["kwargs"] = kwargs

    @property
    def options(self) -> dict[str, Any]:
        """Options of the call, and the ids it was given by :meth:`freeze`."""
        return cast("dict[str, Any]", self["options"])

    @options.setter
    def options(self, options: dict[str, Any]) -> None:
        self["options"] = options

    @property
    def subtask_type(self) -> str | None:
        """``chain``, ``group`` or ``chord``; ``None`` for the call of one task."""
        return cast("str | None", self["subtask_type"])

    @subtask_type.setter
    def subtask_type(self, kind: str | None) -> None:
        self["subtask_type"] = kind

    @property
    def immutable(self) -> bool:
        """Whether arguments added later are ignored."""
        return cast(bool, self["immutable"])

    @immutable.setter
    def immutable(self, flag: bool) -> None:
        self["immutable"] = flag

    @property
    def id(self) -> str | None:
        """The call's id, once it has one."""
        return self.options.get("task_id")

    @id.setter
    def id(self, value: str | None) -> None:
        self.options["task_id"] = value

    @property
    def parent_id(self) -> str | None:
        """Id of the call that made this one."""
        return self.options.get("parent_id")

    @parent_id.setter
    def parent_id(self, value: str | None) -> None:
        self.options["parent_id"] = value

    @property
    def root_id(self) -> str | None:
        """Id of the first call of the workflow."""
        return self.options.get("root_id")

    @root_id.setter
    def root_id(self, value: str | None) -> None:
        self.options["root_id"] = value

    @property
    def app(self) -> Kern:
        """The application that makes the call.

        :raises ImproperlyConfigured: it was never told one.
        """
        if self._app is None and self._type is not None:
            self._app = self._type.app
        if self._app is None:
            raise ImproperlyConfigured(
                f"the signature of {self.task!r} does not know its application: make it with "
                "task.s(…) or app.signature(…), or give one made from data to maybe_signature(…, app=app)"
            )
        return self._app

    @property
    def type(self) -> Task[Any, R]:
        """The task.

        :raises NotRegistered: the application has no task of that name.
        """
        if self._type is None:
            self._type = self.app.tasks[self.task]
        return self._type

    def _registered(self) -> Task[Any, R] | None:
        """The task, where this process knows it."""
        if self._type is None and self._app is not None:
            self._type = self._app.tasks.get(self.task)
        return self._type

    # -- completing and copying ----------------------------------------------------------------------------------------

    def _merge(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[tuple[Any, ...], dict[str, Any], dict[str, Any]]:
        """Arguments and options of this call with those given; see ``spec`` of partials: args in front, kwargs win.

        :param force: also when immutable.
        """
        merged = dict(self.options)
        if options:
            kept = _KEPT_OPTIONS | set(merged.get("stamped_headers") or ())
            merged.update({name: value for name, value in options.items() if name not in kept or name not in merged})
        if self.immutable and not force:
            return tuple(self.args), dict(self.kwargs), merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    def clone(self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **opts: Any) -> Self:
        """A copy, completed with what is given."""
        args, kwargs, options = self._merge(args, kwargs, opts)
        return self._alike(args, kwargs, copy.deepcopy(options))

    partial = clone

    def _alike(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]) -> Self:
        described = {
            "task": self.task,
            "args": tuple(args),
            "kwargs": dict(kwargs),
            "options": dict(options),
            "subtask_type": self.subtask_type,
            "immutable": self.immutable,
        }
        made = type_of(self).from_dict(described, app=self._app)
        made._type = self._type
        return cast("Self", made)

    def replace(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> Self:
        """A copy in which what is given stands in the place of what was there."""
        made = self.clone()
        if args is not None:
            made.args = tuple(args)
        if kwargs is not None:
            made.kwargs = dict(kwargs)
        if options is not None:
            made.options = dict(options)
        return made

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options here, and return the same signature."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether arguments added later are ignored."""
        self.immutable = immutable

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> AsyncResult[R]:
        """Fix the call's id now, so that its result can be named before it is made.

        Freezing again keeps the id and answers another result object of it.
        """
        options = self.options
        task_id = options.get("task_id") or _id or str(uuid4())
        options["task_id"] = task_id
        if root_id:
            options["root_id"] = root_id
        if parent_id:
            options["parent_id"] = parent_id
        if "reply_to" not in options:
            options["reply_to"] = self.app.thread_oid
        if group_id and "group_id" not in options:
            options["group_id"] = group_id
        if chord:
            options["chord"] = chord
        if group_index is not None:
            options["group_index"] = group_index
        return self.app.AsyncResult(task_id)

    _freeze = freeze

    # -- making the call -----------------------------------------------------------------------------------------------

    def __call__(self, *args: Any, **kwargs: Any) -> R:
        """Run the task here and now, like a function."""
        args, kwargs, _options = self._merge(args, kwargs)
        return self.type(*args, **kwargs)

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """Have a worker make the call, completed with these arguments."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R]:
        """:meth:`delay` for asyncio callers."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """Have a worker make the call, completed with what is given.

        A task this process does not know is called by its name.

        :param options: see :data:`kern.call_options.CALL_OPTIONS`; those that are ``None`` are left out.
        """
        args, kwargs, options = self._merge(args, kwargs, _given(options))
        task = self._registered()
        if task is not None:
            return task.apply_async(args, kwargs, **options)
        return self.app.send_task(self.task, args, kwargs, **options)

    async def aapply_async(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """:meth:`apply_async` for asyncio callers."""
        args, kwargs, options = self._merge(args, kwargs, _given(options))
        task = self._registered()
        if task is not None:
            return await task.aapply_async(args, kwargs, **options)
        return await self.app.asend_task(self.task, args, kwargs, **options)

    def apply(
        self, args: Sequence[Any] | None = None, kwargs: Mapping[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run it here and now, as a worker would.

        :raises NotRegistered: this process does not know the task.
        """
        args, kwargs, options = self._merge(args, kwargs, options)
        return self.type.apply(args, kwargs, **options)

    def __invert__(self) -> R:
        """``~signature``: make the call and wait for its value."""
        return self.apply_async().get()

    # -- what follows it -----------------------------------------------------------------------------------------------

    def link(self, callback: Mapping[str, Any]) -> Any:
        """Have *callback* called with the value when the task has succeeded; returns *callback*."""
        return self.append_to_list_option("link", _signature_like(callback, "link"))

    def link_error(self, errback: Mapping[str, Any]) -> Any:
        """Have *errback* called when the task has failed; returns *errback*."""
        return self.append_to_list_option("link_error", _signature_like(errback, "link_error"))

    def on_error(self, errback: Mapping[str, Any]) -> Self:
        """:meth:`link_error`, but returns this signature."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Signature[Any]]:
        """This signature and everything linked to it, and to that, and so on."""
        found: list[Signature[Any]] = [self]
        for linked in _listed(self.options.get("link")):
            found.extend(maybe_signature(linked, app=self._app).flatten_links())
        return found

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Append to the option *key*, a list, unless an equal value is in it; returns *value*."""
        items = self._list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Append one value, or each of several, to the option *key*, a list."""
        self._list_option(key).extend(_listed(value))

    def _list_option(self, key: str) -> list[Any]:
        items = self.options.get(key)
        if not isinstance(items, list):
            items = self.options[key] = _listed(items)
        return items

    # -- composing -----------------------------------------------------------------------------------------------------

    def __or__(self, other: Any) -> Any:
        """``a | b``: *b* follows *a* with its value. Workflows are a plugin's.

        :raises CapabilityMissing: no installed plugin composes; says which one to install.
        """
        if not isinstance(other, Signature):
            raise _not_composed(other)
        owner = self._app or (self._type and self._type.app) or other.app
        return owner.compose(self, other)

    __ior__ = __or__

    def __ror__(self, other: Any) -> Any:
        raise _not_composed(other)

    # -- stamps --------------------------------------------------------------------------------------------------------

    def stamp(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Mark the call, and what is linked to it, with headers that can be searched and revoked by.

        :param visitor: asked for stamps: ``on_signature(signature, **headers)``, for links ``on_callback`` and
            ``on_errback``; each answers a mapping or ``None``.
        :param append_stamps: keep the former value of a stamp beside the new one, in a list.
        :param headers: stamps for all of it.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        answered = visitor.on_signature(self, **headers) if visitor is not None else None
        own = {name: self.options[name] for name in self.options.get("stamped_headers") or () if name in self.options}
        return self.set(**_stamps(answered, headers, own, append_stamps))

    def stamp_links(self, visitor: Any = None, append_stamps: bool = False, **headers: Any) -> None:
        """Stamp what is linked to this call; the call's own stamps are not passed on."""
        for key, hook in (("link", "on_callback"), ("link_error", "on_errback")):
            linked = self.options.get(key)
            if not linked:
                continue
            stamped = []
            for item in _listed(linked):
                follower = maybe_signature(item, app=self._app)
                answered = getattr(visitor, hook)(follower, **headers) if visitor is not None else None
                follower.stamp(visitor, append_stamps, **_stamps(answered, headers, {}, append_stamps))
                stamped.append(follower)
            self.options[key] = stamped

    # -- as text and data ----------------------------------------------------------------------------------------------

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as text, completed with these arguments; sensitive ones are masked."""
        args, kwargs, _options = self._merge(args, kwargs, force=True)
        task = self._registered()
        positions = _sensitive_places(task)
        hidden = kwargs if task is None else task.masked_arguments((), kwargs)[1]
        # Arguments of a call that may still be completed move to the right, so that any may end in a later place.
        shown = [
            repr(MASK) if any(at == place if self.immutable else at >= place for at in positions) else saferepr(value)
            for place, value in enumerate(args)
        ]
        shown += [f"{name}={saferepr(value)}" for name, value in hidden.items()]
        return f"{self.task}({', '.join(shown)})"

    def __repr__(self) -> str:
        return self.reprcall()

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __deepcopy__(self, memo: dict[int, Any]) -> Signature[R]:
        # Arguments are the caller's objects, and those need not be copyable.
        return self._alike(self.args, self.kwargs, copy.deepcopy(self.options, memo))

    def __copy__(self) -> Signature[R]:
        return self._alike(self.args, self.kwargs, self.options)


def _sensitive_places(task: Task[Any, Any] | None) -> list[float]:
    """Places of the task's sensitive parameters; those of ``*rest`` may be any."""
    if task is None or not task.sensitive:
        return []
    names = frozenset(task.sensitive)
    places: list[float] = [at for at, name in enumerate(task.parameter_names) if name in names]
    return places + [float("inf") for name in task.parameter_names if name.startswith("*") and name[1:] in names]


def type_of(signature: Signature[Any]) -> type[Signature[Any]]:
    """The class; ``type`` means something else inside it."""
    return signature.__class__


def _class_of(kind: str, app: Kern | None) -> type[Signature[Any]] | None:
    """The class registered for *kind*; ``None`` for one that nobody knows, which is then the call of a task."""
    known = Signature.TYPES.get(kind)
    if known is None and kind in COMPOSED:
        if app is not None:
            app.plugins.continuation("chord" if kind == "chord" else "chain")  # has the plugin loaded
            known = Signature.TYPES.get(kind)
        if known is None:
            raise CapabilityMissing(f"a signature of type {kind!r} needs a plugin that knows it; install kern-canvas")
    return known


def _given(options: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _listed(value: Any) -> list[Any]:
    """A list of one or several: nothing, one signature, or a sequence of them."""
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple | set | frozenset | Iterator) else [value]


def _not_composed(other: Any) -> TypeError:
    # Never NotImplemented: Python would then make the union of two dicts.
    return TypeError(f"a signature is composed with signatures alone, not with {saferepr(other, 100)}")


def _signature_like(value: Any, what: str) -> Any:
    if not isinstance(value, dict):
        raise TypeError(f"{what}() takes a signature, such as task.s(), not {saferepr(value, 100)}")
    return value


def _stamps(
    answered: Mapping[str, Any] | None, inherited: Mapping[str, Any], own: Mapping[str, Any], append: bool
) -> dict[str, Any]:
    """Options that carry all stamps: what the visitor answered goes before what was inherited.

    :param own: stamps that are there already; with *append* they stay beside the new value.
    """
    names = list(inherited.get("stamped_headers") or [name for name in inherited if name != "stamped_headers"])
    merged = {name: value for name, value in inherited.items() if name != "stamped_headers"}
    if answered:
        names += answered.get("stamped_headers") or [name for name in answered if name != "stamped_headers"]
        merged.update({name: value for name, value in answered.items() if name != "stamped_headers"})
    for name, value in own.items():
        if name not in merged:
            merged[name] = value
        elif append:
            merged[name] = [*_listed(merged[name]), *_listed(value)]
        names.append(name)
    return {**merged, "stamped_headers": sorted(set(names))} if names else merged


# -- making signatures -------------------------------------------------------------------------------------------------


@overload
def signature(varies: Task[Any, R], *args: Any, **kwargs: Any) -> Signature[R]: ...
@overload
def signature(varies: Signature[R], *args: Any, **kwargs: Any) -> Signature[R]: ...
@overload
def signature(varies: str | Mapping[str, Any], *args: Any, **kwargs: Any) -> Signature[Any]: ...
def signature(
    varies: Any,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    options: Mapping[str, Any] | None = None,
    type: Task[Any, Any] | None = None,
    subtask_type: str | None = None,
    immutable: bool = False,
    app: Kern | None = None,
    **ex: Any,
) -> Signature[Any]:
    """A signature, from a task or its name with the arguments of :class:`Signature`, or from data.

    :param varies: a signature is copied, a dict is rebuilt; further arguments but *app* are for neither.
    """
    if isinstance(varies, Signature):
        return varies.clone()
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app=app)
    return Signature(
        varies,
        args,
        kwargs,
        options,
        type=type,
        subtask_type=subtask_type,
        immutable=immutable,
        app=app,
        **ex,
    )


@overload
def maybe_signature(d: None, app: Kern | None = None, clone: bool = False) -> None: ...
@overload
def maybe_signature(d: Signature[R], app: Kern | None = None, clone: bool = False) -> Signature[R]: ...
@overload
def maybe_signature(d: Mapping[str, Any], app: Kern | None = None, clone: bool = False) -> Signature[Any]: ...
def maybe_signature(d: Any, app: Kern | None = None, clone: bool = False) -> Any:
    """The signature that *d* is or describes; ``None`` stays ``None``.

    :param app: the application it belongs to from now on.
    :param clone: copy what is a signature already.
    """
    if d is None:
        return None
    found = d if isinstance(d, Signature) and not clone else signature(d, app=app)
    if app is not None:
        found._app = app
    return found


#: Celery's former name.
subtask = signature
maybe_subtask = maybe_signature
