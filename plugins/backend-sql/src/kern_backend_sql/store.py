"""The result store: documents as parts, in Celery's tables."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from kern.contracts.records import Records
from kern.contracts.result_store import (
    BlockingResultStore,
    DocumentForm,
    GroupDocument,
    Join,
    JoinState,
    Plan,
    StoreCapability,
    WriteStatus,
    Written,
)
from kern.errors import BackendError, BackendStoreError, BackendUnavailable, ImproperlyConfigured, KernError
from kern.message import Publication
from kern.outcome import Document, JoinPart
from kern.serialization import CONTENT_TYPES, JSON
from kern.states import READY_STATES
from kern_backend_sql import legacy
from kern_backend_sql.rows import DEFAULT_EXPIRES, Rows, naive, now
from kern_backend_sql.settings import ENGINE_OPTIONS, DatabaseSettings
from kern_backend_sql.tables import GROUP_TABLE, TASK_TABLE, Names
from kern_backend_sql.waiting import waiting_of
from kern_backend_sql.writer import Statements, Writer
from kern_sql_engine import (
    Connection,
    Database,
    Family,
    Kind,
    Link,
    SqlError,
    SqlPlan,
    SqlRecords,
)
from kern_sql_engine import (
    plans as sql_plans,
)

if TYPE_CHECKING:
    from sqlalchemy.engine import Engine

T = TypeVar("T")

DISTRIBUTION = "kern-backend-sql"
#: Ids in one question.
CHUNK = 500
#: Rows deleted in one transaction.
SWEEP = 1000
#: Seconds before now from which on a sweep looks.
_LONG_AGO = 50 * 365 * 86400.0


def backend_error(error: SqlError) -> KernError:
    """*error* as the contract has it."""
    made: BackendError
    if error.kind is Kind.DATA:
        made = BackendStoreError(str(error))
    else:
        made = BackendUnavailable(str(error), retryable=error.retryable or error.kind is Kind.NO_TABLE)
    made.__cause__ = error
    return made


class SqlResultStore(BlockingResultStore):
    """Results in a database.

    :param url: see :mod:`kern_sql_engine.urls`; ``db`` or ``database`` alone stand for the setting ``database_url``.
    :param conf: the application's settings: :class:`~kern_backend_sql.settings.DatabaseSettings`, ``result_expires``,
        ``result_serializer``.
    """

    capabilities = frozenset(
        {StoreCapability.JOINS, StoreCapability.GROUPS, StoreCapability.RECORDS, StoreCapability.SHARED}
    )
    document_form = DocumentForm.PARTS
    poll_interval: ClassVar[tuple[float, float]] = (0.001, 0.01)

    def __init__(self, url: str, conf: Any = None) -> None:
        settings = conf.section(DatabaseSettings) if conf is not None else DatabaseSettings()
        self._settings = settings
        self.database = Database(_named(url, settings), DISTRIBUTION)
        self.url = self.database.url.masked
        options = dict(ENGINE_OPTIONS if settings.database_engine_options is None else settings.database_engine_options)
        self._engine_options = options
        #: Whether engines are made as the user says, and may lead to other places than the URL alone.
        self._own_engine = options != ENGINE_OPTIONS or settings.database_engine_callback is not None
        self._engine_callback = _callback(settings.database_engine_callback)
        self.server = f"{self.database.identity}#results" if self._own_engine else self.database.identity
        if self.database.dialect.notifies:
            self.capabilities = self.capabilities | {StoreCapability.PUSH}
        expires = getattr(conf, "result_expires", DEFAULT_EXPIRES) if conf is not None else DEFAULT_EXPIRES
        if isinstance(expires, timedelta):
            expires = expires.total_seconds()
        self._expires: float | None = float(expires) if expires else None
        serializer = getattr(conf, "result_serializer", None) or "json"
        self._rows = Rows(self.database.family, serializer, self._expires)
        self._writer = Writer(self.database, _names(settings), self._rows)
        self._engine: Engine | None = None
        self._link: Link | None = None
        self._waiting = waiting_of(self.database, self._final, keep=not settings.database_short_lived_sessions)
        self._records: SqlRecords | None = None

    # -- life

    def open(self) -> None:
        with self._errors():
            if self._own_engine and self._engine is None:
                self._engine = self._make_engine()
            if self._link is None:
                options = self._engine_options
                recycle = options.get("pool_recycle", -1)
                self._link = Link(
                    self.database,
                    self._prepare,
                    engine=self._engine,
                    ping=bool(options.get("pool_pre_ping")),
                    recycle=float(recycle) if recycle is not None and recycle >= 0 else None,
                    keep=not self._settings.database_short_lived_sessions,
                )
            self._link.open()
            self._link.release()
            self._waiting.opened()

    def close(self) -> None:
        if self._link is not None:
            self._link.close()
        self._waiting.close()
        if self._records is not None:
            self._records.close()

    # -- waiting

    def wake_fd(self) -> int | None:
        return self._waiting.fileno()

    def look_anyway(self) -> float | None:
        return self._waiting.look_anyway()

    def collect(self, watched: Collection[str]) -> Iterable[Document]:
        if not watched:
            self._waiting.close()
            return []
        with self._using() as connection:
            return self._waiting.collect(connection, self._writer.statements(connection), watched)

    def _final(
        self, connection: Connection, statements: Statements, sql: str, task_ids: Iterable[str]
    ) -> list[Document]:
        found = self._read(connection, statements, sql, task_ids).values()
        return [document for document in found if document.status in READY_STATES]

    # -- documents

    def plan(
        self,
        documents: Sequence[Document | None],
        parts: Sequence[Sequence[JoinPart]],
        others: Sequence[Sequence[Document]] = (),
    ) -> list[Plan | None]:
        return [
            SqlPlan(self.server, document, tuple(its_parts), tuple(its_others), writer=self._writer)
            if document or its_parts or its_others
            else None
            for document, its_parts, its_others in zip(documents, parts, others or [()] * len(documents), strict=True)
        ]

    def write(self, plans: Sequence[Plan]) -> list[Written]:
        if not plans:
            return []
        mine = [plan for plan in plans if isinstance(plan, SqlPlan)]
        if len(mine) != len(plans):
            raise BackendError(f"a plan of another store was given to {self.url}")
        with self._using() as connection:
            self._waiting.wrote()
            sql_plans.prepare(connection, mine)
            try:
                return connection.in_transaction(lambda: sql_plans.apply(connection, mine))
            except SqlError as error:
                if error.lost or error.retryable:
                    raise
            return [self._write_alone(connection, plan) for plan in mine]

    def _write_alone(self, connection: Connection, plan: SqlPlan) -> Written:
        try:
            return connection.in_transaction(lambda: sql_plans.apply(connection, [plan]))[0]
        except SqlError as error:
            return Written(WriteStatus.WRITTEN, error=backend_error(error))

    def read(self, task_ids: Sequence[str]) -> dict[str, Document]:
        if not task_ids:
            return {}
        with self._using() as connection:
            statements = self._writer.statements(connection)
            return self._read(connection, statements, statements.read, task_ids)

    def _read(
        self, connection: Connection, statements: Statements, sql: str, task_ids: Iterable[str]
    ) -> dict[str, Document]:
        found: dict[str, Document] = {}
        moment = now()
        for chunk in _chunks(task_ids):
            wanted = set(chunk)
            for row in connection.rows(sql, (self.database.dialect.values(chunk),)):
                kept = self._rows.kept(statements.layout.columns, row)
                # A collation may find what is only alike.
                if kept.document.task_id not in wanted:
                    continue
                expired = kept.expired(moment)
                if not expired:
                    found[kept.document.task_id] = kept.document
                # The row of what has expired may be written to again.
                if expired or kept.document.status not in READY_STATES:
                    self._waiting.on_the_way(kept.document.task_id)
        return found

    def forget(self, task_ids: Sequence[str]) -> int:
        if not task_ids:
            return 0
        with self._using() as connection:
            statements = self._writer.statements(connection)
            return connection.in_transaction(
                lambda: sum(
                    connection.run(statements.forget, (self.database.dialect.values(chunk),))
                    for chunk in _chunks(task_ids)
                ),
            )

    # -- groups

    def save_group(self, group: GroupDocument) -> None:
        with self._using() as connection:
            statements = self._writer.statements(connection)
            row = (group.group_id, group.result, self._moment())
            connection.in_transaction(lambda: connection.many(statements.save_group, [row]))

    def read_group(self, group_id: str) -> GroupDocument | None:
        with self._using() as connection:
            statements = self._writer.statements(connection)
            found = connection.rows(statements.read_group, (self.database.dialect.values([group_id]),))
        for identifier, result, since in found:
            moment = naive(_moment(since)) if since is not None else None
            alive = self._expires is None or moment is None or moment + timedelta(seconds=self._expires) > now()
            if identifier == group_id and alive and result is not None:
                return self._group(group_id, bytes(result))
        return None

    def _group(self, group_id: str, result: bytes) -> GroupDocument:
        if self._rows.content_type != CONTENT_TYPES["pickle"] and legacy.looks_pickled(result):
            plain = legacy.as_json(result)
            if plain is not None:
                return GroupDocument(group_id, plain, JSON, "utf-8")
        return GroupDocument(group_id, result, self._rows.content_type, self._rows.content_encoding)

    def delete_group(self, group_id: str) -> None:
        with self._using() as connection:
            statements = self._writer.statements(connection)
            connection.run(statements.delete_group, (self.database.dialect.values([group_id]),))

    # -- expiry

    def sweep(self) -> int:
        count = 0
        with self._using() as connection:
            while connection.in_transaction(lambda: self._writer.joins.sweep(connection)):
                pass
            if self._expires is None:
                return 0
            statements = self._writer.statements(connection)
            oldest = self._moment(-self._expires)
            while ids := [number for (number,) in connection.rows(statements.old_plain, (oldest, SWEEP))]:
                count += self._delete(connection, statements, ids)
            # Those that say themselves how long they live, which may be longer than what this store writes.
            last, number = self._moment(-_LONG_AGO), 0
            while rows := connection.rows(statements.old_telling, (oldest, last, last, number, SWEEP)):
                number, last = rows[-1][:2]
                moment = now()
                kept = [(row[0], self._rows.kept(statements.layout.columns, row[2:])) for row in rows]
                count += self._delete(connection, statements, [each for each, row in kept if row.expired(moment)])
            count += connection.in_transaction(lambda: connection.run(statements.sweep_groups, (oldest,)))
        return count

    def _delete(self, connection: Connection, statements: Statements, numbers: Sequence[int]) -> int:
        if not numbers:
            return 0
        values = (self.database.dialect.values(numbers),)
        return connection.in_transaction(lambda: connection.run(statements.delete, values))

    def _moment(self, offset: float = 0.0) -> Any:
        """A time from now, as columns have it."""
        moment = now() + timedelta(seconds=offset)
        return moment.isoformat(" ", "microseconds") if self.database.family is Family.SQLITE else moment

    # -- joins

    def open_join(self, join: Join) -> None:
        with self._using() as connection:
            self._writer.prepare(connection)
            connection.in_transaction(lambda: self._writer.joins.open(connection, join))

    def joins_due(self, limit: int = 100) -> list[JoinState]:
        with self._using() as connection:
            self._writer.prepare(connection)
            return self._writer.joins.due(connection, limit)

    def close_join(self, join_id: str) -> tuple[Publication, ...]:
        with self._using() as connection:
            self._writer.prepare(connection)
            return connection.in_transaction(lambda: self._writer.joins.close(connection, join_id))

    # -- records

    def records(self) -> Records | None:
        if self._records is None:
            self._records = SqlRecords(self.database, backend_error)
        return self._records

    # -- inside

    def _prepare(self, connection: Connection) -> None:
        if self._settings.database_create_tables_at_setup:
            self._writer.prepare(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except SqlError as error:
            if error.kind is Kind.NO_TABLE:
                self._writer.forget_layout()
            raise backend_error(error) from error

    @contextmanager
    def _using(self) -> Iterator[Connection]:
        with self._errors():
            if self._link is None:
                raise SqlError(Kind.UNREACHABLE, f"{self.url}: there is no connection", lost=True)
            try:
                yield self._link.get()
            finally:
                self._link.release()

    def _make_engine(self) -> Engine:
        engine = self.database.engine(**self._engine_options)
        if self._engine_callback is not None:
            self._engine_callback(engine)
        return engine


def _named(url: str, settings: DatabaseSettings) -> str:
    if "://" in url:
        return url
    if not settings.database_url:
        raise ImproperlyConfigured(
            f"result_backend is {url!r} and names no database; write {url}+sqlite:///results.db, "
            f"{url}+postgresql://user:password@host/database, or set database_url"
        )
    return settings.database_url


def _names(settings: DatabaseSettings) -> Names:
    names, schemas = settings.database_table_names or {}, settings.database_table_schemas or {}
    return Names(
        task=names.get("task") or TASK_TABLE,
        group=names.get("group") or GROUP_TABLE,
        task_schema=schemas.get("task"),
        group_schema=schemas.get("group"),
    )


def _callback(given: Callable[..., Any] | str | None) -> Callable[..., Any] | None:
    if not isinstance(given, str):
        return given
    module, _, name = given.replace(":", ".").rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ImproperlyConfigured(
            f"setting 'database_engine_callback': {given!r} cannot be imported: {error}"
        ) from error
    if not callable(found):
        raise ImproperlyConfigured(f"setting 'database_engine_callback': {given!r} is not callable")
    return found  # type: ignore[no-any-return]


def _moment(value: Any) -> Any:
    from datetime import datetime

    return datetime.fromisoformat(value) if isinstance(value, str) else value


def _chunks(task_ids: Iterable[str]) -> Iterator[list[str]]:
    ids = list(dict.fromkeys(task_ids))
    for start in range(0, len(ids), CHUNK):
        yield ids[start : start + CHUNK]
