"""The generated pages of the reference say what the code says."""

import os

import pytest

from tools.reference.pages import FOLDER, pages


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages as they would be written now, in an environment that sets nothing."""
    with pytest.MonkeyPatch.context() as patch:
        for name in list(os.environ):
            if name.startswith(("KERN_", "CELERY_")):
                patch.delenv(name)
        return pages()


def test_generated_pages_are_those_that_are_committed(made: dict[str, str]) -> None:
    """What a page says is what the code says; after a change of the code: python -m tools.reference."""
    old = [name for name, text in made.items() if not (FOLDER / name).exists() or (FOLDER / name).read_text() != text]
    assert not old, f"run python -m tools.reference: {', '.join(old)}"


def test_generating_twice_gives_the_same(made: dict[str, str]) -> None:
    """Nothing in a page depends on chance."""
    assert pages() == made
