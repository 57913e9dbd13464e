"""What the SQL drivers of kern share: URLs, connections, dialects, one transaction for broker and results, records."""

from kern_sql_engine.connections import (
    CallersConnection,
    Connection,
    MysqlConnection,
    PostgresqlConnection,
    SqliteConnection,
    Statements,
)
from kern_sql_engine.database import Database
from kern_sql_engine.dialects import Dialect
from kern_sql_engine.failures import Kind, SqlError
from kern_sql_engine.link import Link
from kern_sql_engine.plans import PlanWriter, SqlPlan
from kern_sql_engine.records import SqlRecords
from kern_sql_engine.urls import DatabaseUrl, Family

__all__ = [
    "CallersConnection",
    "Connection",
    "Database",
    "DatabaseUrl",
    "Dialect",
    "Family",
    "Kind",
    "Link",
    "MysqlConnection",
    "PlanWriter",
    "PostgresqlConnection",
    "SqlError",
    "SqlPlan",
    "SqlRecords",
    "SqliteConnection",
    "Statements",
]
