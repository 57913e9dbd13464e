"""Plans: made from documents and parts of joins, written in batches, decided where a script cannot."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterator, Sequence
from itertools import repeat
from typing import Any

import attrs
import hiredis

from kern.contracts.result_store import Plan, Written
from kern.errors import BackendError, BackendStoreError, BackendUnavailable
from kern.identity import new_id
from kern.message import Publication
from kern.outcome import Document, JoinPart
from kern.states import FAILURE, READY_STATES, SUCCESS
from kern_backend_redis import chords, joins
from kern_backend_redis.answers import checked, in_database
from kern_backend_redis.chords import Chords, Results
from kern_backend_redis.documents import Reader, look
from kern_backend_redis.names import Names
from kern_backend_redis.settings import Options
from kern_redis_client import scripts
from kern_redis_client.failures import ConnectionLost, Kind, failure
from kern_redis_client.link import Command, Conversation
from kern_redis_client.plans import (
    Argument,
    ChordFields,
    DocumentFields,
    PartFields,
    RedisPlan,
    assemble,
    one_document,
)

WRITE = scripts.load("kern_backend_redis", "scripts/write", include=("plans",))

#: What one script writes at most: plans, and bytes, but for a plan that has more alone.
PLANS, BYTES = 64, 512 * 1024
#: Bytes on their way before an answer is awaited.
IN_FLIGHT = 4 * 1024 * 1024
#: The longest text Redis takes.
LONGEST = 512 * 1024 * 1024
#: Seconds for which Celery remembers at least that a chord is over.
_OVER = 300

#: What the server says when it is the wrong one, or not ready: nothing of it is a fault of what was to be written.
_UNAVAILABLE = frozenset(
    {
        Kind.UNREACHABLE,
        Kind.CREDENTIALS,
        Kind.READ_ONLY,
        # Not the document's fault, and it passes: given up for it, a result would be lost.
        Kind.FULL,
        Kind.DISK,
        Kind.NOT_READY,
        Kind.MOVED,
        Kind.BUSY,
        Kind.NO_SCRIPT,
    }
)


class Writer:
    """Makes plans on any thread, and writes them. See :class:`kern_redis_client.plans.PlanWriter`."""

    def __init__(
        self,
        url: str,
        server: str | None,
        database: int,
        names: Names,
        options: Options,
        reader: Reader,
        results: Results,
    ) -> None:
        self._url = url
        self._server = server
        self._database = database
        self._names = names
        self._options = options
        self._results = results
        self._chords = Chords(database, names, results, reader, options.ordered)

    # -- planning

    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        """See :meth:`kern.contracts.result_store.ResultStore.plan`.

        :raises BackendStoreError: a document is larger than Redis takes.
        """
        plans: list[Plan | None] = []
        server, database, task, life = self._server, self._database, self._names.task, self._options.life
        failure_life = self._options.failure_life
        for document, its_parts, its_others in zip(documents, parts, others or repeat(()), strict=bool(others)):
            if its_parts or its_others:
                plans.append(self._whole(document, tuple(its_parts), tuple(its_others)))
            elif document is None:
                plans.append(None)
            else:
                status = document.status
                arguments = one_document(
                    database,
                    status,
                    task(document.task_id),
                    failure_life if status == FAILURE else life,
                    self._body(document),
                )
                plans.append(RedisPlan(server, document, arguments=arguments, writer=self))
        return plans

    def _body(self, document: Document) -> bytes:
        body = document.whole
        if body is None:
            raise BackendError(f"the document of {document.task_id} is in parts; this store keeps whole ones")
        if len(body) > LONGEST:
            raise BackendStoreError(
                f"value too large for Redis backend: {len(body)} bytes, Redis takes {LONGEST}",
                state=document.status,
                task_id=document.task_id,
            )
        return body

    def _whole(self, document: Document | None, parts: tuple[JoinPart, ...], others: tuple[Document, ...]) -> RedisPlan:
        documents = tuple(self._document(each) for each in ((document, *others) if document else others))
        token = new_id()
        made = tuple(self._part(part, token) for part in parts)
        return RedisPlan(
            self._server,
            document,
            parts,
            others,
            arguments=assemble(self._database, documents, made, own=document is not None),
            writer=self,
            documents_to_write=documents,
            parts_to_write=made,
        )

    def _document(self, document: Document) -> DocumentFields:
        return DocumentFields(
            document.status,
            self._names.task(document.task_id),
            self._options.failure_life if document.status == FAILURE else self._options.life,
            self._body(document),
        )

    def _part(self, part: JoinPart, token: str) -> PartFields | ChordFields:
        if part.layout == chords.LAYOUT:
            return self._chord_part(part, token)
        if part.layout:
            raise chords.unknown_layout(part.layout)
        return PartFields(
            self._names.join(part.join_id),
            self._names.joins_due,
            part.join_id,
            part.member,
            part.state == SUCCESS,
            joins.encode_part(part),
            part.size or 0,
            b"" if part.body is None else joins.encode_publications([part.body]),
            joins.encode_publications(part.on_error) if part.on_error else b"",
            token,
            self._options.join_life,
        )

    def _chord_part(self, part: JoinPart, token: str) -> ChordFields:
        options = self._options
        score = "+inf" if part.index is None else str(part.index)
        return ChordFields(
            self._names.group(part.join_id),
            self._results.part(part),
            f"{part.member}:{score}",
            options.ordered,
            score,
            options.chord_seconds,
            options.group_seconds,
            token.replace("-", ""),
            options.claim_seconds,
            max(options.claim_seconds * 2, _OVER),
        )

    # -- writing

    def write(self, plans: Sequence[Plan]) -> Conversation[list[Written]]:
        """Write plans; an answer for each, in order."""
        answers: dict[int, Written] = {}
        pending = [(number, self._mine(plan)) for number, plan in enumerate(plans)]
        while pending:
            undecided: list[tuple[int, Generator[Any, list[Any], RedisPlan]]] = []
            for flight in _flights(_batches(pending)):
                commands = [self._command([plan for _, plan in batch]) for batch in flight]
                for batch, said in zip(flight, checked((yield from self.asked(commands))), strict=True):
                    for (number, plan), answer in zip(batch, said, strict=True):
                        written = plan.answered(answer)
                        if not isinstance(written, Written):
                            undecided.append((number, written))
                        elif isinstance(written.error, BackendUnavailable):
                            raise written.error
                        else:
                            answers[number] = written
            pending = []
            for number, deciding in undecided:
                pending.append((number, (yield from deciding)))
        return [answers[number] for number in range(len(plans))]

    def asked(self, commands: Sequence[Command]) -> Conversation[list[Any]]:
        """The answers to *commands*, said again on a new connection if the old one was lost."""
        attempts = 0
        while True:
            try:
                return (yield commands)
            except ConnectionLost:
                attempts += 1
                if attempts > self._options.max_retries:
                    raise

    def _mine(self, plan: Plan) -> RedisPlan:
        if not isinstance(plan, RedisPlan) or plan.server != self._server:
            raise BackendError(f"a plan of another store was given to {self._url}")
        return plan

    def _command(self, plans: Sequence[RedisPlan]) -> Command:
        arguments: list[Argument] = [self._database, len(plans)]
        for plan in plans:
            arguments += plan.arguments
        return WRITE.call([self._names.joins_due], arguments)

    # -- deciding; in conversations of the store's, or of a transport's

    def refused(self, plan: RedisPlan, said: str) -> Exception:
        error = failure(hiredis.ReplyError(said), self._url)
        if error.kind in _UNAVAILABLE:
            return BackendUnavailable(str(error), retryable=error.retryable)
        document = plan.document or next(iter(plan.documents), None)
        return BackendStoreError(
            str(error),
            state=document.status if document is not None else "",
            task_id=document.task_id if document is not None else "",
        )

    def decide(self, plan: RedisPlan, reports: Sequence[Sequence[Any]]) -> Conversation[RedisPlan]:
        documents = list(plan.documents_to_write or ([self._document(plan.document)] if plan.document else ()))
        parts: list[PartFields | ChordFields] = [attrs.evolve(part, closing="") for part in plan.parts_to_write]
        publications: list[Publication] = []
        # A chord that failed brings the document of a body that never runs; what an earlier decision brought goes.
        del documents[(plan.document is not None) + len(plan.documents) :]
        for report in reports:
            kind, number = report[0], report[1] - 1
            if kind == b"d":
                if number < len(documents):
                    documents[number] = yield from self._judged(documents[number])
            elif kind == b"k":
                parts[number] = attrs.evolve(parts[number], closing=report[2].decode())
                publications += joins.decode_publications(report[3])
            else:
                part, fields = plan.join_parts[number], parts[number]
                assert isinstance(fields, ChordFields)
                record = fields.record if report[3] else None
                ended = yield from self._chords.end(part, fields.score, record, plan.document)
                closing = "failed" if ended.failed else "done"
                parts[number] = attrs.evolve(fields, closing=closing, count=report[2])
                publications += ended.publications
                if ended.failure is not None:
                    documents.append((yield from self._judged(self._document(ended.failure))))
        return attrs.evolve(
            plan,
            arguments=assemble(self._database, documents, parts, own=plan.document is not None),
            publications=tuple(publications),
            documents_to_write=tuple(documents),
            parts_to_write=tuple(parts),
        )

    def _judged(self, document: DocumentFields) -> Conversation[DocumentFields]:
        """The document, with whether it may overwrite what is stored."""
        (stored,) = checked((yield [in_database(self._database, "GET", document.key)]))
        if stored is None:
            return attrs.evolve(document, known="", overwrites=True)
        state, _ = look(stored)
        final = state in READY_STATES
        keeps = state == SUCCESS or (final and document.status not in READY_STATES)
        known = hashlib.sha1(stored, usedforsecurity=False).hexdigest()
        return attrs.evolve(document, known=known, overwrites=not keeps)


def _batches(pending: Sequence[tuple[int, RedisPlan]]) -> Iterator[list[tuple[int, RedisPlan]]]:
    """What one script writes."""
    batch: list[tuple[int, RedisPlan]] = []
    size = 0
    for item in pending:
        if batch and (len(batch) >= PLANS or size + item[1].size > BYTES):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += item[1].size
    if batch:
        yield batch


def _flights(batches: Iterator[list[tuple[int, RedisPlan]]]) -> Iterator[list[list[tuple[int, RedisPlan]]]]:
    """What is sent before an answer is awaited."""
    flight: list[list[tuple[int, RedisPlan]]] = []
    size = 0
    for batch in batches:
        flight.append(batch)
        size += sum(plan.size for _, plan in batch)
        if size >= IN_FLIGHT:
            yield flight
            flight, size = [], 0
    if flight:
        yield flight
