"""The arguments of a task's function: what they are called, whether they fit, and which of them are not to be shown."""

from __future__ import annotations

import inspect
import keyword
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, cast

import attrs

from kern.saferepr import MASK

_Kind = inspect.Parameter
_BY_POSITION = (_Kind.POSITIONAL_ONLY, _Kind.POSITIONAL_OR_KEYWORD)


@attrs.frozen
class Parameters:
    """The parameters callers of a task see; a bound task's own ``self`` is not one of them."""

    signature: inspect.Signature
    #: Parameters in the order in which positional arguments fill them, then ``*rest`` and ``**others`` where there are.
    names: tuple[str, ...]
    #: A function of the same parameters that does nothing: calling it is the check, with Python's own message.
    check: Callable[..., None]

    @classmethod
    def of(cls, run: Callable[..., Any], name: str) -> Parameters:
        """Those of *run*, the function of the task *name*."""
        try:
            signature = inspect.signature(run)
        except ValueError:  # a function in C that does not say
            signature = inspect.signature(lambda *args, **kwargs: None)
        parameters = signature.parameters.values()
        names = [p.name for p in parameters if p.kind in _BY_POSITION]
        names += [f"*{p.name}" for p in parameters if p.kind is _Kind.VAR_POSITIONAL]
        names += [f"**{p.name}" for p in parameters if p.kind is _Kind.VAR_KEYWORD]
        return cls(signature, tuple(names), _checker(name.rpartition(".")[2], signature))

    @property
    def positional(self) -> tuple[str, ...]:
        """Names of the parameters that a positional argument may fill, in order."""
        return tuple(name for name in self.names if not name.startswith("*"))

    def masked(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], sensitive: Collection[str]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """The arguments, with ``'***'`` in the place of those that are *sensitive*."""
        positional = self.positional
        rest = next((name[1:] for name in self.names if name.startswith("*") and name[1] != "*"), None)
        others = next((name[2:] for name in self.names if name.startswith("**")), None)
        own = self.signature.parameters
        return (
            tuple(
                MASK if (positional[place] if place < len(positional) else rest) in sensitive else value
                for place, value in enumerate(args)
            ),
            {
                name: MASK if name in sensitive or (others in sensitive and name not in own) else value
                for name, value in kwargs.items()
            },
        )

    def reconciled(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], new_args: Sequence[Any] | None, new_kwargs: Any
    ) -> tuple[Sequence[Any], Mapping[str, Any]]:
        """A call's arguments with one kind replaced: what was given for the same parameter in the other kind gives way.

        :param args: as the call was made, like *kwargs*.
        :param new_args: in their place; ``None``: none, likewise *new_kwargs*.
        """
        positional = self.positional
        if new_args is not None:
            if new_kwargs is None:
                taken = set(positional[: len(new_args)])
                new_kwargs = {name: value for name, value in kwargs.items() if name not in taken}
            return new_args, new_kwargs
        if new_kwargs is None or len(args) > len(positional):
            return args, kwargs if new_kwargs is None else new_kwargs
        named = list(zip(positional, args, strict=False))
        first = next((place for place, (name, _) in enumerate(named) if name in new_kwargs), None)
        if first is None:
            return args, new_kwargs
        by_name = {name: value for name, value in named[first:] if name not in new_kwargs}
        return args[:first], {**by_name, **new_kwargs}


def _checker(name: str, signature: inspect.Signature) -> Callable[..., None]:
    """A function named *name* with these parameters and an empty body.

    Written as source so that a wrong call gives Python's own words, and a right one costs what a call costs.
    """
    parts: list[str] = []
    positional_only = star = False
    for parameter in signature.parameters.values():
        default = "" if parameter.default is parameter.empty else "=None"
        if positional_only and parameter.kind is not parameter.POSITIONAL_ONLY:
            parts.append("/")
            positional_only = False
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional_only = True
            parts.append(parameter.name + default)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            star = True
            parts.append("*" + parameter.name)
        elif parameter.kind is parameter.KEYWORD_ONLY:
            if not star:
                star = True
                parts.append("*")
            parts.append(parameter.name + default)
        elif parameter.kind is parameter.VAR_KEYWORD:
            parts.append("**" + parameter.name)
        else:
            parts.append(parameter.name + default)
    if positional_only:
        parts.append("/")
    safe = name if name.isidentifier() and not keyword.iskeyword(name) else "task"
    namespace: dict[str, Any] = {}
    exec(f"def {safe}({', '.join(parts)}): pass", namespace)
    return cast("Callable[..., None]", namespace[safe])
