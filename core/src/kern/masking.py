"""Keeping secrets out of what is printed: URLs without passwords, values without keys."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

#: What stands where a secret was.
MASK = "********"

_NAME = re.compile(r"pass(word|wd|phrase)?|secret|token|credential|private|api_?key|access_?key", re.IGNORECASE)
# Greedy up to the last "@" of one URL: a password may hold "@", "/" and ":" by mistake, and must not be shown then.
_USER_INFO = re.compile(r"(?P<head>\b[a-z][a-z0-9+.\-]*://[^:@/?#;\s]*):[^;\s]*@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<head>[?&](?P<name>[^=&#;\s]+)=)[^&#;\s]*")


def is_secret_name(name: str) -> bool:
    """Whether a value of that name is not to be shown."""
    return _NAME.search(name) is not None


def mask_url(text: str) -> str:
    """*text* with the password of each URL in it (also in query parameters) masked."""
    masked = _USER_INFO.sub(rf"\g<head>:{MASK}@", text)
    return _QUERY.sub(lambda m: m["head"] + MASK if is_secret_name(m["name"]) else m[0], masked)


def mask(value: Any) -> Any:
    """*value* fit to be shown: URLs masked, and in mappings what has the name of a secret."""
    if isinstance(value, str):
        return mask_url(value)
    if isinstance(value, Mapping):
        return {k: MASK if v and isinstance(k, str) and is_secret_name(k) else mask(v) for k, v in value.items()}
    if isinstance(value, list):
        return [mask(item) for item in value]
    if type(value) is tuple:
        return tuple(mask(item) for item in value)
    return value
