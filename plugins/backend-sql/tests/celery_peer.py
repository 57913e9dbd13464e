"""A live Celery that stores and reads results: run by Celery's own interpreter, one JSON question and answer a line.

Each question is answered by a process of its own, forked from one that has Celery imported: as fresh as a new client.
"""

import json
import os
import sys
from importlib import import_module

from celery import Celery
from celery.result import AsyncResult, GroupResult

# What each child would import for itself, which takes longer than what it does.
for name in ("celery.backends.database", "sqlalchemy.dialects.mysql", "sqlalchemy.dialects.postgresql",
             "sqlalchemy.dialects.sqlite", "psycopg", "pymysql"):  # fmt: skip
    import_module(name)


def app_of(url, extended):
    app = Celery("peer", broker="memory://", backend=f"db+{url}")
    app.conf.result_extended = extended
    app.conf.result_expires = None
    return app


def store(app, task_id, value, state="SUCCESS", error=None, traceback=None):
    app.backend.store_result(task_id, ValueError(*error) if error else value, state, traceback=traceback)


def read(app, task_id):
    meta = app.backend.get_task_meta(task_id, cache=False)
    result = meta.get("result")
    meta["result"] = [type(result).__name__, list(result.args)] if isinstance(result, BaseException) else result
    meta["date_done"] = str(meta.get("date_done"))
    return meta


def save_group(app, group_id, members):
    GroupResult(group_id, [AsyncResult(member, app=app) for member in members], app=app).save()


def read_group(app, group_id):
    restored = GroupResult.restore(group_id, app=app)
    return None if restored is None else [restored.id, [member.id for member in restored.results]]


def forget(app, task_id):
    app.backend.forget(task_id)


def answer(line):
    url, extended, name, arguments = json.loads(line)
    try:
        return {"answer": globals()[name](app_of(url, extended), **arguments)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error} ({error.__cause__})"}


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(json.dumps(answer(line), default=str), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
