"""What is measured, in the order of the table.

``ROWS`` is everything; the modules beside this one say how. Ratios are those to Celery in the same run, of medians. A
row for workflows belongs into :mod:`~benchmarks.rows.latency`, one for pools that wait into
:mod:`~benchmarks.rows.throughput`.
"""

from __future__ import annotations

from benchmarks.rows import footprint, imports, latency, server, throughput
from benchmarks.rows.row import ALONE, LOWER, WITH_LIMIT, Figure, Row

__all__ = ["ROWS"]

#: Workers in the row of idle ones: as many as two cores start in reasonable time.
CROWD = 40

REDIS: tuple[Row, ...] = (
    Row(
        (Figure("Redis: drain, results ignored (tasks/s)", ratio=16),),
        throughput.drain("publish_ignored", 40_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (Figure("Redis: drain, results stored (tasks/s)", ratio=12),),
        throughput.drain("publish_bulk", 40_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (Figure("Redis: publish one by one, confirmed (calls/s)", ratio=3.5),),
        throughput.publish("publish_one_by_one", 20_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (Figure("Redis: bulk publish (calls/s)", ratio=26),),
        throughput.publish("publish_bulk", 40_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (
            Figure("Redis: idle round trip, p50 (ms)", LOWER, ratio=3.6),
            Figure("Redis: idle round trip, p99 (ms)", LOWER, ratio=2.9),
        ),
        latency.round_trips(1_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (Figure("Redis: 5,000 calls and all their results (s)", LOWER, ratio=13),),
        throughput.calls_and_results(5_000),
        contestants=WITH_LIMIT,
    ),
    Row(
        (Figure("Redis: 2 ms of processor time a task (share of ideal)", target=0.93, ratio=1.75),),
        throughput.computing(1_500),
        contestants=WITH_LIMIT,
    ),
    Row((Figure("Redis: worker start to first task (s)", LOWER, ratio=3.8),), latency.first_task()),
    Row((Figure("Redis: idle worker, two processes, PSS (MB)", LOWER, target=45, ratio=1.75),), footprint.idle),
    Row(
        (
            Figure("Redis: 20,000 calls due in 5–15 s, growth of the worker (MB)", LOWER, target=1),
            Figure("Redis: 20,000 calls due in 5–15 s, lateness, p99 (s)", LOWER, target=0.02, ratio=30),
        ),
        footprint.delayed(20_000),
        rounds=1,
    ),
    Row(
        (Figure(f"Redis: {CROWD} idle workers, 100 messages/s, Redis CPU (% of a core)", LOWER, ratio=0.5),),
        server.crowd(CROWD),
        rounds=1,
    ),
    Row(
        (
            Figure("Redis: longest time that one script blocks it (ms)", LOWER, target=5),
            Figure("Redis: the slowest script, p95 of its runs (ms)", LOWER, target=5),
        ),
        server.longest_script(20_000, 500, 10_000),
        contestants=ALONE,
    ),
    Row(
        (
            Figure("Redis: growth of the main process over 200,000 tasks (MB)", LOWER, target=5),
            Figure("Redis: growth over 200,000 tasks and 1,000 reconnects (MB)", LOWER, target=5),
        ),
        footprint.growth(200_000, reconnects=1_000),
        contestants=ALONE,
        rounds=1,
    ),
)

#: One process on each side.
SQL: tuple[Row, ...] = tuple(
    Row(tuple(figures), measure, on, ("kern", "celery"))
    for on, figures, measure in (
        (
            "sqlite",
            [Figure("SQLite: drain, results stored (tasks/s)", target=4_000)],
            throughput.drain("publish_bulk", 10_000, 1),
        ),
        (
            "sqlite",
            [Figure("SQLite: drain, results ignored (tasks/s)")],
            throughput.drain("publish_ignored", 10_000, 1),
        ),
        (
            "sqlite",
            [Figure("SQLite: bulk publish (calls/s)", target=25_000)],
            throughput.publish("publish_bulk", 20_000),
        ),
        (
            "sqlite",
            [Figure("SQLite: publish one by one (calls/s)", target=3_000)],
            throughput.publish("publish_one_by_one", 3_000),
        ),
        (
            "sqlite",
            [
                Figure("SQLite: idle round trip, p50 (ms)", LOWER),
                Figure("SQLite: idle round trip, p99 (ms)", LOWER),
            ],
            latency.round_trips(300, 1, scaled=True),
        ),
        (
            "sqlite",
            [Figure("SQLite: calls with all their results (calls/s)")],
            throughput.calls_back(5_000, 1),
        ),
        (
            "sqlite",
            [Figure("SQLite: worker start to first task, new database (s)", LOWER, target=0.5)],
            latency.first_task(1),
        ),
        (
            "sqlite",
            [Figure("SQLite: worker start to first task, tables there (s)", LOWER, target=0.5)],
            latency.first_task(1, used=True),
        ),
        (
            "postgresql",
            [Figure("PostgreSQL: drain, results stored (tasks/s)", target=2_500)],
            throughput.drain("publish_bulk", 10_000, 1),
        ),
        ("postgresql", [Figure("PostgreSQL: bulk publish (calls/s)")], throughput.publish("publish_bulk", 10_000)),
        (
            "postgresql",
            [
                Figure("PostgreSQL: idle round trip, p50 (ms)", LOWER),
                Figure("PostgreSQL: idle round trip, p99 (ms)", LOWER),
            ],
            latency.round_trips(300, 1, scaled=True),
        ),
    )
)

NO_SERVER: tuple[Row, ...] = tuple(
    Row((figure,), measure, "none", ALONE, rounds=1)
    for figure, measure in (
        (Figure("import kern, over bare Python (ms)", LOWER, target=60), imports.start_of("-c", "import kern")),
        (
            Figure("from kern import Kern, over bare Python (ms)", LOWER),
            imports.start_of("-c", "from kern import Kern"),
        ),
        (Figure("kern --help, over bare Python (ms)", LOWER, target=200), imports.start_of("-m", "kern", "--help")),
    )
)

ROWS: tuple[Row, ...] = (
    *REDIS,
    *SQL,
    Row(
        (Figure("SQLite: growth of the worker over 200,000 tasks (MB)", LOWER, target=5),),
        footprint.growth(200_000, 1),
        "sqlite",
        ALONE,
        rounds=1,
    ),
    *NO_SERVER,
)
