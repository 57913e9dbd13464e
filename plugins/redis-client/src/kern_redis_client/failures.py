"""What goes wrong with a Redis server, in kern's words."""

from __future__ import annotations

from kern.errors import TransportError


class ConnectionLost(TransportError):
    """The connection went while an answer was awaited: the command may or may not have been carried out."""


def closed(name: str) -> TransportError:
    """Nobody answers on a connection that its owner has closed."""
    return TransportError(f"the connection to {name} is closed")


def silent(name: str, seconds: float) -> ConnectionLost:
    """The server, or the way to it, is dead without having said so."""
    return ConnectionLost(f"{name} has not answered for {seconds:g} s")
