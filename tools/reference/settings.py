"""``settings.md``: every setting, and Celery's that do nothing here."""

import re
from collections.abc import Iterable
from typing import Any

from kern.celery_settings import CELERY_NAMES, NOT_READ, PROVIDED_BY
from kern.settings import NOTHING, Option, Section
from tools.reference.docstrings import code, first_sentence, table
from tools.reference.installed import app, distribution
from tools.workspace import packages

_INTRODUCTION = """\
# Settings

Every setting is an attribute of `app.conf`, a keyword of `Kern(…)`, `KERN_<NAME>` in the environment, and a key of
`[tool.kern]` in `pyproject.toml`: [how to configure](../how-to/configure.md). `kern config` shows them with the values
they have and where those come from.

Names and meanings are Celery's wherever Celery has the setting. The old upper-case name in the last column is
understood, too. Times are in seconds unless a unit is given; a `timedelta` is understood. Where the default of an
application [configured for Celery](../how-to/move-from-celery.md#defaults-that-differ) differs, it stands beside it.
"""

_NOT_READ = """\
## Celery's settings that do nothing here

A configuration that has one of these is not wrong: one line in the log says what stands here.

### They have no place in kern
"""

_OF_PLUGINS = """\
### They belong to plugins that are not part of this release

The name of the distribution is the one such a plugin will have; until it is there, the setting is not read.
"""


def page() -> str:
    conf = app().conf
    parts = [_INTRODUCTION]
    for section, owner in conf.sections.items():
        options = [option for option in conf.options.values() if option.section is section]
        parts.append(_section(section, owner, options))
    read = set(conf.options)
    parts.append(_NOT_READ)
    parts.append(table(("setting", "why, and what does it instead"), _not_read(read)))
    parts.append(_OF_PLUGINS)
    parts.append(table(("distribution", "settings"), _elsewhere(read)))
    return "\n\n".join(part.strip() for part in parts)


def _section(section: type[Section], owner: str, options: Iterable[Option]) -> str:
    title = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", section.__name__.removesuffix("Settings")).capitalize()
    if owner != "kern":
        title += f": `{distribution(owner)}`"
    rows = [
        (code(option.key), _default(option), _accepts(option), option.declared.help, _old_names(option))
        for option in options
    ]
    heading = ("setting", "default", "accepts", "meaning", "before Celery 4")
    return f"## {title}\n\n{first_sentence(section.__doc__)}\n\n{table(heading, rows)}"


def _default(option: Option) -> str:
    shown = _value(option.default(celery=False))
    if option.declared.celery_default is not NOTHING:
        shown += f"; for Celery {_value(option.default(celery=True))}"
    return shown


def _value(value: Any) -> str:
    if isinstance(value, tuple):
        value = list(value)
    return "unset" if value is None else code(repr(value))


def _accepts(option: Option) -> str:
    unit = option.declared.unit
    return option.accepts + (f", in {_UNITS.get(unit, unit)}" if unit else "")


_UNITS = {"s": "seconds", "ms": "milliseconds"}


def _old_names(option: Option) -> str:
    names = [CELERY_NAMES.get(option.key), *option.declared.old]
    return ", ".join(code(name) for name in names if name)


def _not_read(read: set[str]) -> list[tuple[str, str]]:
    by_reason: dict[str, list[str]] = {}
    for key, reason in sorted(NOT_READ.items()):
        if key not in read:
            by_reason.setdefault(reason, []).append(key)
    rows = [(", ".join(map(code, keys)), reason) for reason, keys in by_reason.items()]
    return sorted(rows)


def _elsewhere(read: set[str]) -> list[tuple[str, str]]:
    here = {package.name for package in packages()}
    rows = []
    for name, keys in sorted(PROVIDED_BY.items()):
        unread = [key for key in keys if key not in read]
        if unread and name not in here:
            rows.append((code(name), ", ".join(map(code, unread))))
    return rows
