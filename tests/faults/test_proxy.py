"""The proxy itself: it does what scenarios believe that it does."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest
from tests.faults.proxy import Proxy

from kern_testing.waiting import eventually


@pytest.fixture
def echo() -> Iterator[socket.socket]:
    """A server that gives back what it gets, in capital letters."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65_536):
                    connection.sendall(data.upper())
            except OSError:
                pass

    def accept() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=serve, args=(connection,), daemon=True).start()

    threading.Thread(target=accept, daemon=True).start()
    yield listener
    listener.shutdown(socket.SHUT_RDWR)
    listener.close()


@pytest.fixture
def proxy(echo: socket.socket) -> Iterator[Proxy]:
    with Proxy("127.0.0.1", echo.getsockname()[1]) as proxy:
        yield proxy


def connect(proxy: Proxy) -> socket.socket:
    return socket.create_connection(("127.0.0.1", proxy.port), timeout=5)


def ask(connection: socket.socket, question: bytes) -> bytes:
    connection.sendall(question)
    answer = b""
    while len(answer) < len(question):
        piece = connection.recv(65_536)
        if not piece:
            break
        answer += piece
    return answer


def ask_until_reset(connection: socket.socket) -> bytes:
    answer = b""
    try:
        while piece := connection.recv(65_536):
            answer += piece
    except ConnectionResetError:
        return answer
    raise AssertionError("the connection ended in order")


def test_it_carries_whatever_is_sent(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        assert ask(connection, b"a" * 300_000) == b"A" * 300_000
        assert proxy.connections == 1
    assert proxy.carried("requests") == proxy.carried("replies") == 300_000
    eventually(lambda: proxy.connections == 0, "the connection has ended")


def test_a_cut_resets_both_sides_and_new_connections_are_sound(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        assert proxy.cut() == 1
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    with connect(proxy) as connection:
        assert ask(connection, b"again") == b"AGAIN"


@pytest.mark.parametrize("direction", ["requests", "replies"])
def test_a_silent_direction_carries_nothing_until_it_is_healed(direction: str, proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        proxy.silence(**{other: other == direction for other in ("requests", "replies")})
        connection.sendall(b"anybody?")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        carried = {"requests": 5, "replies": 5} | ({} if direction == "requests" else {"requests": 13})
        assert {way: proxy.carried(way) for way in ("requests", "replies")} == carried
        proxy.heal()
        connection.settimeout(5)
        assert connection.recv(100) == b"ANYBODY?"


def test_a_half_open_connection_swallows_what_is_sent(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        assert proxy.half_open() == 1
        connection.sendall(b"anybody?")
        connection.settimeout(0.2)
        with pytest.raises(TimeoutError):
            connection.recv(1)
        with connect(proxy) as other:
            assert ask(other, b"new") == b"NEW"
        assert proxy.connections <= 1


def test_what_is_late_is_late_once_and_not_for_each_piece(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.slow(delay=0.2)
        began = time.monotonic()
        assert ask(connection, b"a" * 100_000) == b"A" * 100_000
        assert 0.4 <= time.monotonic() - began < 1.5


def test_a_throttle_holds_the_rate(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.slow(rate=64_000)
        began = time.monotonic()
        assert ask(connection, b"a" * 48_000) == b"A" * 48_000
        assert time.monotonic() - began > 0.5


def test_who_connects_is_refused_and_counted(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        proxy.refuse()
        assert ask(connection, b"still here") == b"STILL HERE"
        with pytest.raises(ConnectionResetError), connect(proxy) as refused:
            refused.recv(1)
        assert len(proxy.asked_at) == 2


def test_a_connection_is_cut_where_the_marker_comes_along(proxy: Proxy) -> None:
    """Across segments; the other connections stay."""
    with connect(proxy) as connection, connect(proxy) as other:
        ask(other, b"hello")
        sprung = proxy.cut_at("requests", b"needle")
        ask(connection, b"a hayst")
        assert not sprung.is_set()
        ask(connection, b"ack, a need")
        connection.sendall(b"le, more hay")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert sprung.is_set()
        assert ask(other, b"needle") == b"NEEDLE"


def test_a_request_is_forwarded_and_its_reply_cut_off(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        proxy.cut_at("replies", b"ANSWER")
        connection.sendall(b"an answer")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert proxy.carried("requests") == 14
        assert proxy.carried("replies") == 5


def test_a_request_is_forwarded_and_whatever_answers_it_is_lost(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        ask(connection, b"hello")
        proxy.cut_at("requests", b"question", forward=True)
        connection.sendall(b"a question")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        assert proxy.carried("requests") == 15
        assert proxy.carried("replies") == 5


def test_a_reply_is_cut_in_its_middle(proxy: Proxy) -> None:
    with connect(proxy) as connection:
        proxy.cut_at("replies", after=70_000)
        connection.sendall(b"a" * 100_000)
        got = ask_until_reset(connection)
        assert len(got) <= 70_000
        assert proxy.carried("replies") == 70_000
