"""A Celery application on a real broker: what a Celery worker runs, and a client that answers questions.

Run by Celery's interpreter. As a client (``python celery_peer.py``) it answers one pickled line with another. Where it
lives is told by the environment: ``PEER_BROKER``, ``PEER_RESULTS``, and ``PEER_JOURNAL``, a file that each run of
``peer.note`` adds a line to.
"""

import base64
import os
import pickle
import sys
import traceback

from celery import Celery
from kombu import Exchange, Queue

SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]

app = Celery("peer", broker=os.environ["PEER_BROKER"], backend=os.environ["PEER_RESULTS"], set_as_current=True)
app.conf.update(
    accept_content=SERIALIZERS,
    result_accept_content=SERIALIZERS,
    result_serializer=os.environ.get("PEER_RESULT_SERIALIZER", "json"),
    worker_hijack_root_logger=False,
    broker_connection_retry_on_startup=True,
    task_default_queue="for-celery",
    task_queues=[Queue(name, Exchange(name), routing_key=name) for name in ("for-celery", "for-kern", "shared")],
    task_create_missing_queues=True,
)


class Silly(Exception):
    """An error of the application's own."""


@app.task(name="peer.add")
def add(x, y=0):
    return x + y


@app.task(name="peer.echo")
def echo(value):
    return value


@app.task(name="peer.fail")
def fail(*args):
    raise Silly(*args)


@app.task(name="peer.flaky", bind=True, max_retries=3)
def flaky(self, failures, countdown=0):
    if self.request.retries < failures:
        raise self.retry(exc=KeyError("not yet"), countdown=countdown)
    return self.request.retries


@app.task(name="peer.note", bind=True, acks_late=True)
def note(self, what):
    """One line in the journal, written in one piece."""
    with open(os.environ["PEER_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(f"{what} celery\n".encode())
    return what


@app.task(name="peer.quiet", ignore_result=True)
def quiet(what):
    with open(os.environ["PEER_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(f"{what} celery\n".encode())


def op_send(name, args=(), kwargs=None, protocol=2, **options):
    """Publish a call; its id."""
    app.conf.task_protocol = protocol
    for cached in ("create_task_message", "send_task_message"):
        vars(app.amqp).pop(cached, None)
    try:
        return app.send_task(name, args=args, kwargs=kwargs, **options).id
    finally:
        app.conf.task_protocol = 2


def op_send_task(name, args=(), **options):
    """The same through the task object, so that its own options apply."""
    return app.tasks[name].apply_async(args=args, **options).id


def op_send_many(name, calls, **options):
    with app.producer_or_acquire() as producer:
        return [app.send_task(name, args=args, producer=producer, **options).id for args in calls]


def op_get(task_id, timeout=20):
    """What Celery's client gets, however the task ended."""
    result = app.AsyncResult(task_id)
    value = result.get(timeout=timeout, propagate=False)
    error = isinstance(value, BaseException)
    return {
        "state": result.state,
        "value": repr(value) if error else value,
        "class": type(value).__qualname__,
        "args": [str(arg) for arg in value.args] if error else None,
        "traceback": result.traceback,
    }


def op_version():
    import celery

    return celery.__version__


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    for line in sys.stdin:
        question = pickle.loads(base64.b64decode(line))
        try:
            answer = {"answer": globals()["op_" + question.pop("op")](**question)}
        except Exception:
            answer = {"error": traceback.format_exc()}
        answers.write(base64.b64encode(pickle.dumps(answer)).decode() + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
