"""Joint settlement: what the result store wants written, applied in the transport's script.

The store makes :class:`RedisPlan` objects: arguments of the Lua function ``kern_plan`` (``lua/plans.lua``), which the
store's own script calls, and the transport's if it is of the same server. Neither knows the other.

A plan is written as a whole or not at all. Some cannot be decided by a script: a part that completes a join has
messages to bring along, a compressed document has to be unpacked before it is known whether it may be overwritten.
Then nothing is written, and :meth:`RedisPlan.answered` has a conversation that makes the plan to be written instead.
"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from typing import Any, Protocol

import attrs

from kern.contracts.result_store import Plan, WriteStatus, Written
from kern.message import Publication
from kern.states import READY_STATES, SUCCESS

Argument = str | bytes | int | float

_WRITTEN = Written(WriteStatus.WRITTEN)
_KEPT = Written(WriteStatus.KEPT)


class PlanWriter(Protocol):
    """The store that made a plan. Used by its connection and by the transport's at once."""

    def refused(self, plan: RedisPlan, said: str) -> Exception:
        """The error for a plan of which the server says *said*."""

    def decide(
        self, plan: RedisPlan, reports: Sequence[Sequence[Any]]
    ) -> Generator[Sequence[Sequence[Argument]], list[Any], RedisPlan]:
        """Makes the plan to be written instead, having decided what *reports* asks."""


@attrs.frozen
class RedisPlan(Plan):
    """A plan as arguments, and who can say more about it."""

    #: For ``kern_plan``; flat, and it knows where they end. The first is the number of the database.
    arguments: tuple[Argument, ...] = attrs.field(kw_only=True)
    writer: PlanWriter = attrs.field(kw_only=True, eq=False, repr=False)
    #: To be sent in the same script, after it: bodies and errors of joins that end with this plan.
    publications: tuple[Publication, ...] = attrs.field(default=(), kw_only=True)
    #: What :func:`assemble` made the arguments of, for those that have to be made again.
    documents_to_write: tuple[DocumentFields, ...] = attrs.field(default=(), kw_only=True, repr=False)
    parts_to_write: tuple[PartFields | ChordFields, ...] = attrs.field(default=(), kw_only=True, repr=False)

    @property
    def size(self) -> int:
        """Bytes of all documents."""
        own = 0 if self.document is None else self.document.size
        return own + sum(document.size for document in self.documents)

    def answered(
        self, answer: int | Sequence[Any]
    ) -> Written | Generator[Sequence[Sequence[Argument]], list[Any], RedisPlan]:
        """What the answer of ``kern_plan`` means: what became of the plan, or a conversation that makes another.

        Written where there is no ``error``. :attr:`publications` are then for whoever had the plan written to send.
        """
        if answer == 1:
            return Written(WriteStatus.WRITTEN, self.publications) if self.publications else _WRITTEN
        if answer == 0:
            return Written(WriteStatus.KEPT, self.publications) if self.publications else _KEPT
        assert not isinstance(answer, int)
        word, what = answer
        if word == b"error":
            return Written(WriteStatus.WRITTEN, error=self.writer.refused(self, what.decode("utf-8", "replace")))
        return self.writer.decide(self, what)


@attrs.frozen
class DocumentFields:
    """One document as ``kern_plan`` takes it."""

    status: str
    key: str
    #: Milliseconds; 0: for ever.
    life: int
    body: bytes
    #: sha1 in hexadecimal of what is stored, where only Python could tell its state, and whether it is overwritten.
    known: str = ""
    overwrites: bool = True

    def arguments(self) -> tuple[Argument, ...]:
        verdict = "w" if self.overwrites else "k"
        return (class_of(self.status), self.key, self.life, self.body, self.known, verdict)


@attrs.frozen
class PartFields:
    """A part of one of kern's own joins as ``kern_plan`` takes it."""

    #: The join's key, and that of the set of all that have a deadline.
    key: str
    due_key: str
    join_id: str
    member: str
    succeeded: bool
    #: The part as it is kept.
    record: bytes
    #: How many members; 0: it does not say.
    size: int
    #: Messages, as they are kept; empty: it brings none.
    body: bytes
    errors: bytes
    #: The plan's own: what it has ended it knows again.
    token: str
    #: Milliseconds; 0: for ever.
    life: int
    #: ``"1"``: it completes the join, ``"0"``: it fails it; else ``""``.
    closing: str = ""

    def arguments(self) -> tuple[Argument, ...]:
        return (
            "k", self.key, self.due_key, self.join_id, self.member, int(self.succeeded), self.record,
            self.size or "", self.body, self.errors, self.token, self.life, self.closing,
        )  # fmt: skip


@attrs.frozen
class ChordFields:
    """A part of a chord in Celery's layout as ``kern_plan`` takes it."""

    #: The key of the chord's group; others have one letter behind it.
    key: str
    #: The part as Celery keeps it.
    record: bytes
    #: The part's identity as Celery keeps it.
    identity: str
    #: Sorted by *score*, or a list in the order of ends.
    ordered: bool
    score: str
    #: Seconds; 0: for ever, or not to be changed.
    life: int
    group_life: int
    #: Whoever ends it claims it by this, for so many seconds; what is over is marked as such for so many.
    token: str
    claim_life: int
    over_life: int
    #: ``"done"`` or ``"failed"``: it ends the chord; else ``""``.
    closing: str = ""
    #: How many parts there are then.
    count: int = 0

    def arguments(self) -> tuple[Argument, ...]:
        return (
            "c", self.key, self.record, self.identity, int(self.ordered), self.score, self.life, self.group_life,
            self.token, self.claim_life, self.over_life, self.closing, self.count,
        )  # fmt: skip


def class_of(status: str) -> str:
    """How a state stands to others: nothing overwrites ``s``, and ``n`` overwrites no ``f``."""
    if status == SUCCESS:
        return "s"
    return "f" if status in READY_STATES else "n"


def assemble(
    database: int,
    documents: Sequence[DocumentFields],
    parts: Sequence[PartFields | ChordFields] = (),
    own: bool = True,
) -> tuple[Argument, ...]:
    """The arguments of a plan.

    :param own: whether the first document is the call's own, of which the answer speaks.
    """
    fields: list[Argument] = [len(documents), int(own)]
    for document in documents:
        fields += document.arguments()
    fields.append(len(parts))
    for part in parts:
        fields += part.arguments()
    return (database, "p", len(fields) + 3, *fields)


def one_document(database: int, status: str, key: str, life: int, body: bytes) -> tuple[Argument, ...]:
    """The arguments of a plan of one document."""
    return (database, class_of(status), key, life, body)
