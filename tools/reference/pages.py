"""Which pages there are, and what they say."""

from collections.abc import Callable, Mapping

from tools.reference import call_options, commands, contracts, drivers, errors, hooks, settings, states, task_options
from tools.workspace import ROOT

FOLDER = ROOT / "docs" / "reference"

_NOTE = "<!-- Made by `python -m tools.reference` from the code; change the code. -->\n\n"

_PAGES: Mapping[str, Callable[[], str]] = {
    "settings.md": settings.page,
    "hooks.md": hooks.page,
    "commands.md": commands.page,
    "capabilities.md": drivers.page,
    "call-options.md": call_options.page,
    "task-options.md": task_options.page,
    "states.md": states.page,
    "errors.md": errors.page,
    "contracts.md": contracts.page,
}


def pages() -> dict[str, str]:
    """Every generated page by its file name."""
    return {name: _NOTE + make().strip() + "\n" for name, make in _PAGES.items()}
