"""Writing results and parts of joins, in a transaction of the store's or of a transport of the same database."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime

from kern.contracts.result_store import WriteStatus, Written
from kern.errors import BackendStoreError
from kern.outcome import Document
from kern.states import READY_STATES, SUCCESS
from kern_backend_sql.joins import Joins
from kern_backend_sql.rows import Row, Rows, now
from kern_backend_sql.tables import ID_LENGTH, TASK_COLUMNS, Layout, Names, ensure
from kern_sql_engine import Connection, Database, Dialect, Family, Kind, PostgresqlConnection, SqlError, SqlPlan

#: PostgreSQL tells on this channel which results are final.
CHANNEL = "kern_result"
#: Bytes of one announcement; PostgreSQL allows 8000.
_ANNOUNCEMENT = 7500

_FINAL = ", ".join(f"'{state}'" for state in sorted(READY_STATES))


class Statements:
    """The statements on Celery's tables, as they are in one database."""

    def __init__(self, dialect: Dialect, layout: Layout) -> None:
        self.layout = layout
        sql = dialect.sql
        changed = [column for column in layout.columns if column != "task_id"]
        columns, task = ", ".join(layout.columns), layout.task
        # What nobody overwrites: a success, and what is final by what is not.
        allowed = (
            f"COALESCE({{old.status}}, '') <> '{SUCCESS}' AND "
            f"({{new.status}} IN ({_FINAL}) OR COALESCE({{old.status}}, '') NOT IN ({_FINAL}))"
        )
        into = _insert(task, layout.columns, layout.task_number)
        if dialect.family is Family.POSTGRESQL:
            self.upsert = sql(f"{into} {dialect.on_conflict(['task_id'], changed, task, allowed)} RETURNING task_id")
        else:
            self.upsert = sql(f"{into} {dialect.on_conflict(['task_id'], changed)}")
        self.reserve = sql(f"{_insert(task, ('task_id',), layout.task_number)} {dialect.on_conflict(['task_id'], [])}")
        self.there = sql(f"SELECT {columns} FROM {task} WHERE task_id {{in}} {{lock}}")
        self.read = sql(f"SELECT {columns} FROM {task} WHERE task_id {{in}}")
        self.read_final = sql(f"SELECT {columns} FROM {task} WHERE task_id {{in}} AND status IN ({_FINAL})")
        self.newest = sql(f"SELECT MAX(id) FROM {task}")
        self.newer = sql(f"SELECT id, task_id FROM {task} WHERE id > ? ORDER BY id")
        self.forget = sql(f"DELETE FROM {task} WHERE task_id {{in}}")
        told = "stamps IS NOT NULL" if "stamps" in layout.columns else "1 = 0"
        self.old_plain = sql(f"SELECT id FROM {task} WHERE date_done < ? AND NOT ({told}) LIMIT ?")
        self.old_telling = sql(
            f"SELECT id, date_done, {columns} FROM {task} WHERE date_done < ? AND date_done >= ? "
            f"AND (date_done > ? OR id > ?) AND {told} ORDER BY date_done, id LIMIT ?"
        )
        self.delete = sql(f"DELETE FROM {task} WHERE id {{in}}")
        group = layout.group
        group_columns = ("taskset_id", "result", "date_done")
        self.save_group = sql(
            f"{_insert(group, group_columns, layout.group_number)} "
            f"{dialect.on_conflict(['taskset_id'], ['result', 'date_done'])}"
        )
        self.read_group = sql(f"SELECT taskset_id, result, date_done FROM {group} WHERE taskset_id {{in}}")
        self.delete_group = sql(f"DELETE FROM {group} WHERE taskset_id {{in}}")
        self.sweep_groups = sql(f"DELETE FROM {group} WHERE date_done < ?")
        self.notify = sql("SELECT pg_notify(?, ids) FROM unnest(?::text[]) AS ids")


def _insert(table: str, columns: Sequence[str], number: str | None) -> str:
    names, values = list(columns), ["?"] * len(columns)
    if number is not None:
        names, values = ["id", *names], [number, *values]
    return f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join(values)})"


class Writer:
    """Writes :class:`~kern_sql_engine.plans.SqlPlan`. Used by several threads at once: keeps nothing but the layout."""

    def __init__(self, database: Database, names: Names, rows: Rows) -> None:
        self._dialect = database.dialect
        self._names = names
        self._rows = rows
        self._statements: Statements | None = None
        self.joins = Joins(database.dialect, rows.expires)

    # -- the tables

    @property
    def layout(self) -> Layout | None:
        """The tables as they are; ``None`` before they were looked at."""
        return self._statements.layout if self._statements is not None else None

    def prepare(self, connection: Connection) -> None:
        if self._statements is None:
            self._statements = Statements(self._dialect, ensure(connection, self._names))

    def statements(self, connection: Connection) -> Statements:
        """The statements, once the tables are there."""
        self.prepare(connection)
        assert self._statements is not None
        return self._statements

    def forget_layout(self) -> None:
        """The tables may have changed: look again."""
        self._statements = None

    # -- writing

    def write(self, connection: Connection, plans: Sequence[SqlPlan]) -> list[Written]:
        statements = self.statements(connection)
        answers = [Written(WriteStatus.WRITTEN)] * len(plans)
        # With the position of the plan whose own document it is.
        rows: list[tuple[int | None, Row]] = []
        for position, plan in enumerate(plans):
            try:
                own = () if plan.document is None else ((position, self._row(plan.document, statements.layout)),)
                others = [(None, self._row(document, statements.layout)) for document in plan.documents]
            except Exception as error:
                answers[position] = Written(WriteStatus.WRITTEN, error=error)
            else:
                rows += own
                rows += others
        # An id that is there twice is written twice, in order.
        while rows:
            batch: dict[str, tuple[int | None, Row]] = {}
            later: list[tuple[int | None, Row]] = []
            for item in rows:
                if batch.setdefault(item[1][0], item) is not item:
                    later.append(item)
            kept = self._write_rows(connection, statements, {task_id: row for task_id, (_, row) in batch.items()})
            for task_id in kept:
                of_plan = batch[task_id][0]
                if of_plan is not None:
                    answers[of_plan] = Written(WriteStatus.KEPT)
            rows = later
        parts = [
            () if answer.error is not None else plan.join_parts for plan, answer in zip(plans, answers, strict=True)
        ]
        for position, publications in enumerate(self.joins.write(connection, parts)):
            if publications:
                answers[position] = Written(answers[position].status, tuple(publications))
        return answers

    def _row(self, document: Document, layout: Layout) -> Row:
        if len(document.task_id) > ID_LENGTH or "\0" in document.task_id:
            raise BackendStoreError(
                f"the id {document.task_id[:40]!r}… does not fit its column of {ID_LENGTH} characters",
                state=document.status,
                task_id=document.task_id,
            )
        return self._rows.of(document, layout)

    def _write_rows(self, connection: Connection, statements: Statements, rows: Mapping[str, Row]) -> set[str]:
        """Write rows of different ids; answers the ids of which a final row was there and stays."""
        # In one order always: two writers of the same ids do not wait for each other in a circle.
        ids = sorted(rows)
        columns = statements.layout.columns
        ready = [rows[task_id] for task_id in ids]
        if columns != TASK_COLUMNS:
            picked = [TASK_COLUMNS.index(column) for column in columns]
            ready = [tuple(row[position] for position in picked) for row in ready]
        if isinstance(connection, PostgresqlConnection):
            kept = self._upsert_returning(connection, statements, ids, ready)
        else:
            kept = self._lock_and_write(connection, statements, ids, ready)
        if self._dialect.notifies:
            final = [task_id for task_id in ids if rows[task_id][1] in READY_STATES and task_id not in kept]
            if final:
                connection.rows(statements.notify, (CHANNEL, announcements(final)))
        return kept

    def _upsert_returning(
        self, connection: PostgresqlConnection, statements: Statements, ids: Sequence[str], rows: Sequence[Row]
    ) -> set[str]:
        written = {task_id for (task_id,) in connection.many_rows(statements.upsert, rows)}
        kept = [task_id for task_id in ids if task_id not in written]
        if kept:
            there = self._there(connection, statements, kept)
            expired = [task_id for task_id in kept if task_id not in there or there[task_id][1]]
            if expired:
                connection.run(statements.forget, (self._dialect.values(expired),))
                again = [row for task_id, row in zip(ids, rows, strict=True) if task_id in set(expired)]
                written |= {task_id for (task_id,) in connection.many_rows(statements.upsert, again)}
        return {task_id for task_id in ids if task_id not in written}

    def _lock_and_write(
        self, connection: Connection, statements: Statements, ids: Sequence[str], rows: Sequence[Row]
    ) -> set[str]:
        if self._dialect.family is Family.MYSQL:
            # Rows that are not there cannot be locked.
            connection.many(statements.reserve, [(task_id,) for task_id in ids])
        there = self._there(connection, statements, ids)
        kept: set[str] = set()
        allowed: list[Row] = []
        for task_id, row in zip(ids, rows, strict=True):
            if task_id in there:
                status, expired = there[task_id]
                final = status in READY_STATES
                if not expired and (status == SUCCESS or (final and row[1] not in READY_STATES)):
                    kept.add(task_id)
                    continue
            elif self._dialect.family is Family.MYSQL:
                raise SqlError(
                    Kind.DATA,
                    f"the result table has a row of an id that it does not tell from {task_id!r}: its collation "
                    "ignores case or spaces",
                )
            allowed.append(row)
        if allowed:
            connection.many(statements.upsert, allowed)
        return kept

    def _there(
        self, connection: Connection, statements: Statements, ids: Sequence[str]
    ) -> dict[str, tuple[str | None, bool]]:
        """State of the rows that are there, and whether they have expired."""
        found: dict[str, tuple[str | None, bool]] = {}
        moment: datetime | None = None
        for row in connection.rows(statements.there, (self._dialect.values(ids),)):
            moment = moment or now()
            kept = self._rows.kept(statements.layout.columns, row)
            found[kept.document.task_id] = (kept.document.status, kept.expired(moment))
        return found


def announcements(ids: Sequence[str]) -> list[str]:
    """Ids joined to texts that can be announced; an id with a line break is left to be found by looking."""
    texts: list[str] = []
    current: list[str] = []
    size = 0
    for task_id in ids:
        length = len(task_id.encode()) + 1
        if "\n" in task_id:
            continue
        if current and size + length > _ANNOUNCEMENT:
            texts.append("\n".join(current))
            current, size = [], 0
        current.append(task_id)
        size += length
    if current:
        texts.append("\n".join(current))
    return texts


def announced(text: str) -> list[str]:
    """The ids of one announcement."""
    return text.split("\n")
