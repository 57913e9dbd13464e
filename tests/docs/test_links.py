"""Links between pages lead somewhere."""

from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tools.markdown import Link, anchors, links, pages
from tools.workspace import ROOT


def problem(link: Link) -> str | None:
    parts = urlsplit(link.target)
    if parts.scheme or parts.netloc:
        return None
    if parts.path.startswith("/"):
        return "an absolute path depends on where the page is shown"
    target = (link.path.parent / unquote(parts.path)).resolve() if parts.path else link.path
    if not target.is_relative_to(ROOT):
        return "leads out of the tree"
    if not target.exists():
        return "is not there"
    if parts.fragment and target.suffix == ".md" and parts.fragment not in anchors(target):
        return f"{target.relative_to(ROOT)} has no heading {parts.fragment}"
    return None


@pytest.mark.parametrize("page", pages(), ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    broken = [f"{link}: {why}" for link in links(page) if (why := problem(link))]
    assert not broken, "\n" + "\n".join(broken)
