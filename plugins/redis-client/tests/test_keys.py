"""Names of keys, as kombu has them, and scripts made of fragments."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest

from kern.errors import ImproperlyConfigured
from kern_redis_client import scripts
from kern_redis_client.keys import Keys, from_options


def test_names_are_those_of_kombu() -> None:
    """A list for each step of priority, the most urgent first, step 0 under the queue's own name."""
    keys = Keys()
    assert keys.lists("celery") == ("celery", "celery\x06\x163", "celery\x06\x166", "celery\x06\x169")
    assert [keys.step(priority) for priority in (0, 2, 3, 5, 8, 9, 12, -1, None)] == [0, 0, 3, 3, 6, 9, 9, 0, 0]
    assert keys.member("q", "key", "^key$") == "key\x06\x16^key$\x06\x16q"


def test_prefix_separator_and_steps_are_options() -> None:
    """As in Celery: the prefix is put before as it is, the separator and the steps are free."""
    keys = from_options({"global_keyprefix": "app:", "sep": ":", "priority_steps": [5, 0], "visibility_timeout": 1})
    assert keys.lists("q") == ("app:q", "app:q:5")
    assert keys("kern.leases") == "app:kern.leases"
    assert keys.list_of("q", 7) == "app:q:5"
    assert from_options({}) == Keys()
    assert from_options({"priority_steps": [3, 6]}).lists("q") == ("q\x06\x163", "q\x06\x166")
    assert from_options({"priority_steps": range(10)}).steps == tuple(range(10))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"global_keyprefix": b"x"}, "'global_keyprefix' is text, not bytes"),
        ({"sep": ""}, "'sep' is text of at least one letter"),
        ({"priority_steps": []}, "different numbers from 0 to 9"),
        ({"priority_steps": [0, 0]}, "different numbers from 0 to 9"),
        ({"priority_steps": [0, 10]}, "different numbers from 0 to 9"),
        ({"priority_steps": [True]}, "different numbers from 0 to 9"),
        ({"priority_steps": "0369"}, "different numbers from 0 to 9"),
    ],
)
def test_options_that_cannot_be_used_are_named(options: dict[str, Any], says: str) -> None:
    """With what is accepted."""
    with pytest.raises(ImproperlyConfigured, match=says):
        from_options(options)


def test_a_script_is_called_by_its_hash() -> None:
    """The command has the hash that the server knows it by, the number of keys, keys and arguments."""
    script = scripts.Script("return 'ä'")
    sha = hashlib.sha1("return 'ä'".encode()).hexdigest()
    assert script.call(["a", b"b"], [1, "x"]) == ("EVALSHA", sha, 2, "a", b"b", 1, "x")


def test_fragments_stand_before_the_script_in_their_order() -> None:
    """A script may use what its fragments declare."""
    text = scripts.load("kern_redis_client", "lua/change_record", include=("deliver", "change_record")).text
    assert text == "\n".join(scripts.fragment(name) for name in ("deliver", "change_record", "change_record"))
