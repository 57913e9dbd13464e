"""The order of the menu: first what teaches, last what explains."""

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

SECTIONS = ["Tutorial", "How to", "Reference", "Explanation"]


def place(item: object) -> int:
    if isinstance(item, Page):
        return -1
    title = getattr(item, "title", "")
    return SECTIONS.index(title) if title in SECTIONS else len(SECTIONS)


def on_nav(nav: Navigation, /, *, config: MkDocsConfig, files: Files) -> Navigation:
    nav.items.sort(key=place)
    return nav
