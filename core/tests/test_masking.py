"""Nothing printed has a secret in it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kern.masking import MASK, is_secret_name, mask, mask_url


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://user:hunter2@host:6379/0", f"redis://user:{MASK}@host:6379/0"),
        ("redis://:hunter2@host", f"redis://:{MASK}@host"),
        ("amqp://a:p@ss/w:rd@host//", f"amqp://a:{MASK}@host//"),
        ("amqp://a:x@b//;amqp://c:y@d//", f"amqp://a:{MASK}@b//;amqp://c:{MASK}@d//"),
        ("db+postgresql://u:p@h/d", f"db+postgresql://u:{MASK}@h/d"),
        ("redis://h/0?password=x&db=1", f"redis://h/0?password={MASK}&db=1"),
        ("sqs://h?aws_secret_access_key=x", f"sqs://h?aws_secret_access_key={MASK}"),
        ("cannot reach redis://u:p@h/0: refused", f"cannot reach redis://u:{MASK}@h/0: refused"),
    ],
)
def test_passwords_in_urls_are_masked(url: str, expected: str) -> None:
    """In user info and query, of each URL in a text, also badly written ones."""
    assert mask_url(url) == expected


@pytest.mark.parametrize(
    "text",
    ["redis://host:6379/0", "sqlite:///kern.db", "amqp://guest@host//", "memory://", "a: b @ c", "", "proj.tasks:app"],
)
def test_what_has_no_password_stays(text: str) -> None:
    """A URL is shown as it is."""
    assert mask_url(text) == text


safe = st.text("abcdefghijklmnopqrstuvwxyz0123456789", min_size=1)


@given(
    st.sampled_from(["redis", "amqps", "db+mysql"]), safe | st.just(""), st.text("XYZ%:/?#[]&=@!$", min_size=1), safe
)
def test_no_password_survives(scheme: str, user: str, password: str, host: str) -> None:
    """Whatever characters it has, none of its letters is printed."""
    masked = mask_url(f"{scheme}://{user}:{password}X@{host}/0")
    assert not set(masked) & set("XYZ")
    assert masked.startswith(f"{scheme}://{user}:")
    assert masked.endswith(f"@{host}/0")


def test_values_are_masked_by_name_and_by_shape() -> None:
    """In mappings at any depth, lists and tuples; nothing else is touched."""
    value = {
        "password": "x",
        "API_KEY": "x",
        "nested": [{"secret_access_key": b"x"}, ("redis://u:x@h",)],
        "global_keyprefix": "kept",
        "password_of_none": None,
        "number": 5,
    }
    assert mask(value) == {
        "password": MASK,
        "API_KEY": MASK,
        "nested": [{"secret_access_key": MASK}, (f"redis://u:{MASK}@h",)],
        "global_keyprefix": "kept",
        "password_of_none": None,
        "number": 5,
    }


@pytest.mark.parametrize(
    "name", ["password", "passwd", "sentinel_password", "SECRET", "auth_token", "credentials", "apikey"]
)
def test_names_of_secrets(name: str) -> None:
    """As people name them."""
    assert is_secret_name(name)
