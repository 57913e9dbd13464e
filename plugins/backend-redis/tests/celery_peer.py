"""A live Celery that stores and reads results: run by Celery's own interpreter, one JSON question and answer a line.

Each question is answered by a process of its own, forked from one that has Celery imported: as fresh as a new client.
"""

import json
import os
import sys
from importlib import import_module

from celery import Celery
from celery.app.task import Context
from celery.result import AsyncResult, GroupResult

# What each child would import for itself, which takes longer than what it does.
for name in ("celery.backends.redis", "redis", "kombu.transport.redis", "msgpack", "yaml"):
    import_module(name)


def app_of(url, settings):
    app = Celery("peer", broker=url, backend=url)
    app.conf.update({"accept_content": ["json", "pickle", "yaml", "msgpack"], **settings})

    @app.task(name="proj.body")
    def body(results):
        return results

    return app


def store(app, task_id, value, state="SUCCESS", error=None, traceback=None):
    app.backend.store_result(task_id, ValueError(*error) if error else value, state, traceback=traceback)


def read(app, task_id):
    meta = app.backend.get_task_meta(task_id, cache=False)
    result = meta.get("result")
    meta["result"] = [type(result).__name__, list(result.args)] if isinstance(result, BaseException) else result
    return meta


def wait(app, task_id):
    return AsyncResult(task_id, app=app).get(timeout=20)


def save_group(app, group_id, members):
    GroupResult(group_id, [AsyncResult(member, app=app) for member in members], app=app).save()


def read_group(app, group_id):
    restored = GroupResult.restore(group_id, app=app)
    return None if restored is None else [restored.id, [member.id for member in restored.results]]


def forget(app, task_id):
    app.backend.forget(task_id)


def open_chord(app, group_id, size):
    app.backend.set_chord_size(group_id, size)


def part(app, group_id, task_id, index, value=None, error=None, body_id=None):
    """A header task has ended: its document, and its part of the chord."""
    body = app.signature("proj.body", options={"task_id": body_id, "group_id": group_id})
    request = Context(id=task_id, group=group_id, group_index=index, chord=body, children=[])
    if error:
        app.backend.mark_as_failure(task_id, ValueError(*error), request=request, call_errbacks=False)
    else:
        app.backend.mark_as_done(task_id, value, request=request)


def answer(line):
    url, settings, name, arguments = json.loads(line)
    try:
        return {"answer": globals()[name](app_of(url, settings), **arguments)}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error} ({error.__cause__})"}


for line in sys.stdin:
    child = os.fork()
    if child == 0:
        print(json.dumps(answer(line), default=str), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
