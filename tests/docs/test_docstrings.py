"""How the generated pages make Markdown of docstrings."""

from tools.reference.docstrings import cell, code, first_sentence, inline, markdown, table

DOC = """The first paragraph
goes on.

Then a :class:`~kern.errors.KernError` and :meth:`Transport.claim`, ``code``::

    literal *block*

=====  ==========
one    a thing
two    another
       thing
=====  ==========

* an item
* another
:param name: what it is,
    on two lines
:raises ValueError: it is wrong
:attr:`x` is no field.
"""


def test_a_docstring_becomes_markdown() -> None:
    """Paragraphs, roles, literal blocks, simple tables, lists and fields."""
    assert markdown(DOC).splitlines() == [
        "The first paragraph",
        "goes on.",
        "",
        "Then a `KernError` and `Transport.claim`, `code`:",
        "",
        "```text",
        "literal *block*",
        "```",
        "",
        "",
        "|  |  |",
        "|---|---|",
        "| one | a thing |",
        "| two | another thing |",
        "",
        "",
        "* an item",
        "* another",
        "- `name`: what it is, on two lines",
        "- raises `ValueError`: it is wrong",
        "`x` is no field.",
    ]


def test_a_table_may_have_a_heading() -> None:
    """Three borders make one, two make none."""
    assert "| code | when |" in markdown("====  ====\ncode  when\n====  ====\n0     done\n====  ====").splitlines()


def test_the_first_sentence_is_one_line() -> None:
    assert first_sentence(DOC) == "The first paragraph goes on."
    assert first_sentence(None) == ""


def test_roles_without_a_tilde_keep_their_path() -> None:
    assert inline(":mod:`kern.settings` and :data:`~kern.errors.WIRE_MODULES`") == "`kern.settings` and `WIRE_MODULES`"


def test_cells_hold_their_text() -> None:
    """A bar ends no cell, and what looks like HTML is text, but for code, which is text anyway."""
    assert cell("a | b <node> `<x>`") == "a \\| b &lt;node> `<x>`"
    assert table(("x",), [(1,)]) == "| x |\n|---|\n| 1 |"


def test_code_may_hold_backticks() -> None:
    assert code("a`b") == "``a`b``"
