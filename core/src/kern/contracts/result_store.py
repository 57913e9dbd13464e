"""The result store: keeps what became of tasks, and tells who waits.

Like the transport it has two forms: :class:`ResultStore`, the port, and :class:`BlockingResultStore`, what most authors
write. The promises, each a test of ``kern_testing.ResultStoreContract``:

* A stored ``SUCCESS`` is never overwritten; other final states are not overwritten by states that are not final.
* What one plan has, the documents of several calls and parts of joins, is written as a whole or not at all.
* A document that was written is read back as it was, field by field.
* Whoever watches an id is told when its document becomes final, without a thread or connection for each.
* Group documents and results expire after ``result_expires``; an expired document is as good as absent.
* A member of a join counts once, however often its part arrives; the last part yields the body, once.

*Joint settlement.* :meth:`ResultStore.plan` turns documents into :class:`Plan` objects marked with the server they
belong to. A transport of the same server applies them in its own write; all others are given to
:meth:`ResultStore.write`, first.
"""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar

import attrs

from kern.contracts.port import Reply
from kern.contracts.records import Records
from kern.message import Publication
from kern.outcome import Document, JoinPart

T = TypeVar("T")


class StoreCapability(enum.StrEnum):
    """What a result store can do beyond the plain contract."""

    #: Joins (``open_join`` and the rest).
    JOINS = "joins"
    #: Group documents.
    GROUPS = "groups"
    #: The server deletes expired documents by itself.
    AUTO_EXPIRE = "auto-expire"
    #: Waiting needs no polling.
    PUSH = "push"
    #: Records.
    RECORDS = "records"
    #: A result can be read more than once, and by anybody.
    SHARED = "shared"


class DocumentForm(enum.StrEnum):
    """In which form documents are encoded where the task ran."""

    #: The result alone; the store has columns for the rest.
    PARTS = "parts"
    #: Celery's complete meta document, encoded with ``result_serializer``.
    WHOLE = "whole"


class WriteStatus(enum.StrEnum):
    """What became of one document."""

    WRITTEN = "written"
    #: A final document was there and stays.
    KEPT = "kept"


@attrs.frozen
class Plan:
    """What the store wants written for one outcome. Drivers of one server share a subclass with more in it."""

    #: Identity of the server, as :attr:`Transport.server`; ``None``: only the store itself can write it.
    server: str | None
    document: Document | None
    join_parts: tuple[JoinPart, ...] = ()
    #: Documents of other calls that end with this one: written together with the rest of the plan, or not at all.
    documents: tuple[Document, ...] = ()


@attrs.frozen
class Written:
    """The answer to one plan."""

    #: Of the outcome's own document.
    status: WriteStatus
    #: Messages to publish because a join completed.
    publications: tuple[Publication, ...] = ()
    error: Exception | None = None


@attrs.frozen
class GroupDocument:
    """A saved group: the tuple form of its result, encoded."""

    group_id: str
    result: bytes
    content_type: str = "application/json"
    content_encoding: str = "utf-8"


class JoinPolicy(enum.StrEnum):
    """When a join is complete, and with which body."""

    #: All members succeed; the first failure ends the join.
    ALL = "all"
    #: The first success completes the join.
    ANY = "any"
    #: :attr:`Join.needed` successes complete the join.
    N_OF_M = "n-of-m"
    #: All members end, one way or the other.
    COLLECT = "collect"


@attrs.frozen
class Join:
    """Members whose ends are awaited, and what follows."""

    id: str
    members: tuple[str, ...]
    policy: JoinPolicy = JoinPolicy.ALL
    needed: int | None = None
    #: Published when it completes; its id is fixed here.
    body: Publication | None = None
    #: Published when it fails.
    on_error: tuple[Publication, ...] = ()
    #: Seconds since the epoch after which it fails.
    deadline: float | None = None
    #: As :attr:`kern.outcome.JoinPart.layout`; a join of another layout than kern's own is announced by it, and ends by
    #: its rules. Where it does not name its members, *needed* is how many parts it has.
    layout: str = ""


@attrs.frozen
class JoinState:
    """A join as it stands."""

    join: Join
    #: Members that ended, with state and encoded result.
    parts: Mapping[str, JoinPart]
    closed: bool = False


class ResultStore(ABC):
    """The port. Methods return at once; errors come through the reply.

    A process shares one store between its threads and loops: every method may be called from any thread, and
    :meth:`drive` by several at once. Replies and reports come whether or not anybody drives.

    :class:`~kern.errors.BackendUnavailable` means that the server cannot be reached, and never that a result is absent.
    """

    capabilities: frozenset[StoreCapability] = frozenset()
    document_form: DocumentForm = DocumentForm.WHOLE
    server: str | None = None
    url: str = ""

    @abstractmethod
    def start(self, on_documents: Callable[[Sequence[Document]], None]) -> Reply[None]:
        """Connect; final documents of watched ids go to *on_documents*, on any thread."""

    @abstractmethod
    def stop(self) -> Reply[None]:
        """Disconnect. Safe twice."""

    def drive(self, reply: Reply[T], timeout: float | None) -> T:
        """Block the calling thread until *reply* is there; see :meth:`Transport.drive`."""
        return reply.result(timeout)

    @abstractmethod
    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        """One plan for each outcome, in order; ``None`` where nothing is to be written. No input or output.

        :param documents: of the calls themselves.
        :param others: of further calls that end with each of them; empty: there are none at all.
        """

    @abstractmethod
    def write(self, plans: Sequence[Plan]) -> Reply[list[Written]]:
        """Write plans; item by item in order, an error stays with its item."""

    @abstractmethod
    def read(self, task_ids: Sequence[str]) -> Reply[dict[str, Document]]:
        """Documents that are there."""

    @abstractmethod
    def forget(self, task_ids: Sequence[str]) -> Reply[int]:
        """Delete documents; answers how many were there."""

    @abstractmethod
    def watch(self, task_ids: Collection[str]) -> Reply[None]:
        """Report the final documents of these ids, each once, also those that are there already.

        Watching an id again reports it again, and the reply tells whether the server answers: a client that waits for
        long asks so from time to time.
        """

    @abstractmethod
    def unwatch(self, task_ids: Collection[str]) -> Reply[None]:
        """Report them no more."""

    @abstractmethod
    def save_group(self, group: GroupDocument) -> Reply[None]: ...

    @abstractmethod
    def read_group(self, group_id: str) -> Reply[GroupDocument | None]: ...

    @abstractmethod
    def delete_group(self, group_id: str) -> Reply[None]: ...

    @abstractmethod
    def sweep(self) -> Reply[int]:
        """Delete what has expired; answers how many documents."""

    @abstractmethod
    def open_join(self, join: Join) -> Reply[None]:
        """Create the join's record; nothing happens if it is there. Needs the capability ``JOINS``, like the rest."""

    @abstractmethod
    def joins_due(self, limit: int = 100) -> Reply[list[JoinState]]:
        """Joins that are complete or past their deadline and not closed: what a sweeper has to finish."""

    @abstractmethod
    def close_join(self, join_id: str) -> Reply[tuple[Publication, ...]]:
        """Evaluate and close; answers what is to be published, once (empty when somebody else closed it)."""

    def records(self) -> Records | None:
        """The server's records, with the capability ``RECORDS``."""
        return None


class BlockingResultStore(ABC):
    """The same contract with methods that block; core gives it one thread. See :class:`BlockingTransport`."""

    capabilities: frozenset[StoreCapability] = frozenset()
    document_form: DocumentForm = DocumentForm.WHOLE
    server: str | None = None
    url: str = ""
    poll_interval: ClassVar[tuple[float, float]] = (0.002, 0.05)

    @abstractmethod
    def open(self) -> None: ...

    @abstractmethod
    def close(self) -> None: ...

    def wake_fd(self) -> int | None:
        """A descriptor that becomes readable when :meth:`collect` may have something."""
        return None

    def look_anyway(self) -> float | None:
        """Seconds since the last :meth:`collect` after which it is called although the descriptor is silent, for what
        is not announced; ``None``: never."""
        return None

    @abstractmethod
    def collect(self, watched: Collection[str]) -> Iterable[Document]:
        """Final documents among *watched* that may have come since the last call. Cheap when nothing changed."""

    @abstractmethod
    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        """As :meth:`ResultStore.plan`; called on any thread."""

    @abstractmethod
    def write(self, plans: Sequence[Plan]) -> list[Written]: ...

    @abstractmethod
    def read(self, task_ids: Sequence[str]) -> dict[str, Document]: ...

    @abstractmethod
    def forget(self, task_ids: Sequence[str]) -> int: ...

    def save_group(self, group: GroupDocument) -> None:
        raise _cannot(self, "save groups")

    def read_group(self, group_id: str) -> GroupDocument | None:
        raise _cannot(self, "keep groups")

    def delete_group(self, group_id: str) -> None:
        raise _cannot(self, "keep groups")

    def sweep(self) -> int:
        """Nothing to do where the server expires documents."""
        return 0

    def open_join(self, join: Join) -> None:
        raise _cannot(self, "join")

    def joins_due(self, limit: int = 100) -> list[JoinState]:
        raise _cannot(self, "join")

    def close_join(self, join_id: str) -> tuple[Publication, ...]:
        raise _cannot(self, "join")

    def records(self) -> Records | None:
        """Records on the same server; safe to use from any thread."""
        return None


def _cannot(store: BlockingResultStore, what: str) -> Exception:
    from kern.errors import CapabilityMissing

    return CapabilityMissing(f"the result store {store.url} cannot {what}")


#: Makes a store from a URL and the application's settings; what ``kern_result_stores`` hands over. Making one connects
#: to nothing.
ResultStoreFactory = Callable[[str, Any], "ResultStore | BlockingResultStore"]
