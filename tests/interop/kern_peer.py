"""The same application as ``celery_peer.py``, in kern: what a kern worker runs, and what the tests call."""

import os

from kern import Kern

SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]

app = Kern(
    "peer",
    broker=os.environ["PEER_BROKER"],
    backend=os.environ["PEER_RESULTS"],
    accept_content=SERIALIZERS,
    result_accept_content=SERIALIZERS,
    result_serializer=os.environ.get("PEER_RESULT_SERIALIZER", "json"),
    task_default_queue="for-kern",
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


@app.task(name="peer.note")
def note(what):
    """One line in the journal, written in one piece."""
    with open(os.environ["PEER_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(f"{what} kern\n".encode())
    return what


@app.task(name="peer.quiet", ignore_result=True)
def quiet(what):
    with open(os.environ["PEER_JOURNAL"], "ab", buffering=0) as journal:
        journal.write(f"{what} kern\n".encode())
