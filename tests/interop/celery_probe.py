"""A real Celery that answers questions: run by Celery's interpreter, with a line of JSON for each question and answer.

It publishes on kombu's memory transport and hands out what arrived there, byte for byte; it puts foreign messages on
that transport for a real worker (a thread of this process) to run; it stores result documents and reads foreign ones.
Python values travel pickled, for this is one test talking to itself.
"""

import base64
import json
import pickle
import sys
import traceback
import uuid

from celery import Celery, signature
from celery.contrib.testing.worker import start_worker

SERIALIZERS = ["json", "pickle", "yaml", "msgpack"]


def make_app(result_serializer="json", **settings):
    app = Celery(f"probe-{result_serializer}", broker="memory://", backend="cache+memory://", set_as_current=False)
    app.conf.update(
        task_default_queue="probe",
        accept_content=SERIALIZERS,
        result_accept_content=SERIALIZERS,
        result_serializer=result_serializer,
        task_serializer="json",
        broker_transport_options={"polling_interval": 0.01},
        worker_hijack_root_logger=False,
        **settings,
    )
    return app


app = make_app()
result_apps = {name: make_app(name) for name in SERIALIZERS}
extended_apps = {name: make_app(name, result_extended=True) for name in SERIALIZERS}


#: Fields of a request that a task can tell of.
SEEN = [
    *("id", "task", "lang", "shadow", "eta", "expires", "group", "group_index", "retries", "timelimit"),
    *("root_id", "parent_id", "argsrepr", "kwargsrepr", "origin", "ignore_result", "replaced_task_nesting"),
    *("stamped_headers", "stamps", "correlation_id", "reply_to", "delivery_info", "headers"),
    *("time_limit", "soft_time_limit", "utc"),
]


class Silly(Exception):
    """Takes other arguments than it gives on."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")


@app.task(name="probe.add")
def add(x, y=0):
    return x + y


@app.task(name="probe.describe", bind=True)
def describe(self, *args, **kwargs):
    """The request as the task sees it."""
    seen = {name: getattr(self.request, name, None) for name in SEEN}
    seen["args"], seen["kwargs"] = list(args), kwargs
    for kind in ("callbacks", "errbacks", "chain", "chord"):
        value = getattr(self.request, kind)
        seen[kind] = json.loads(json.dumps(value))
    # What follows is to be seen here, not run.
    self.request.update(callbacks=None, errbacks=None, chain=None, chord=None)
    return seen


@app.task(name="probe.fail")
def fail(*args):
    raise Silly(*args) if len(args) == 2 else ValueError(*args)


def b64(data):
    return base64.b64encode(data if isinstance(data, bytes) else data.encode()).decode()


def taken(queue, connection):
    """The raw envelope at the head of *queue*."""
    envelope = connection.default_channel._get(queue)
    body = envelope["body"]
    encoding = envelope["properties"].get("body_encoding")
    return {
        "body": body if encoding == "base64" else b64(body),
        "headers": envelope["headers"],
        "properties": envelope["properties"],
        "content_type": envelope["content-type"],
        "content_encoding": envelope["content-encoding"],
    }


def op_publish(protocol, name, args, kwargs, options):
    """What Celery puts on the broker for a call."""
    app.conf.task_protocol = protocol
    for cached in ("create_task_message", "send_task_message"):
        vars(app.amqp).pop(cached, None)
    queue = f"capture-{uuid.uuid4()}"
    if options.get("serializer") != "yaml":  # which cannot write Celery's signatures
        for kind in ("link", "link_error"):
            if options.get(kind):
                options[kind] = [signature(s, app=app) for s in options[kind]]
        if options.get("chord"):
            options["chord"] = signature(options["chord"], app=app)
    try:
        with app.connection_for_write() as connection:
            app.send_task(name, args=args, kwargs=kwargs, queue=queue, **options)
            return taken(queue, connection)
    finally:
        app.conf.task_protocol = 2


def op_run(message, task_id):
    """Let a real worker take *message*; answers the task's value, and the document it stored."""
    payload = {
        "body": message["body"],
        "content-type": message["content_type"],
        "content-encoding": message["content_encoding"],
        "headers": message["headers"],
        "properties": {
            **message["properties"],
            "body_encoding": "base64",
            "delivery_tag": str(uuid.uuid4()),
            "delivery_info": {"exchange": "", "routing_key": "probe"},
        },
    }
    with app.connection_for_write() as connection:
        connection.default_channel._put("probe", json.loads(app_json_dumps(payload)))
    result = app.AsyncResult(task_id)
    value = result.get(timeout=20, propagate=False, interval=0.02)
    return {
        "state": result.state,
        "value": value if not isinstance(value, BaseException) else repr(value),
        "document": app.backend.get(app.backend.get_key_for_task(task_id)),
    }


def app_json_dumps(value):
    from kombu.utils.json import dumps

    return dumps(value)


def op_store(serializer, task_id, state, value, request=None, extended=False, traceback=None):
    """The document Celery stores."""
    backend = (extended_apps if extended else result_apps)[serializer].backend
    context = None
    if request is not None:
        from celery.app.task import Context

        context = Context(request)
    backend.store_result(task_id, value, state, traceback=traceback, request=context)
    return backend.get(backend.get_key_for_task(task_id))


def op_failure(serializer, task_id, args):
    """The document of a failure, by the path a worker takes."""
    try:
        fail(*args)
    except Exception as error:
        result_apps[serializer].backend.store_result(task_id, error, "FAILURE", traceback="tb")
    backend = result_apps[serializer].backend
    return backend.get(backend.get_key_for_task(task_id))


def op_load(serializer, task_id, document):
    """What Celery's client makes of a document."""
    app_ = result_apps[serializer]
    app_.backend.set(app_.backend.get_key_for_task(task_id), document)
    result = app_.AsyncResult(task_id)
    value = result.result
    return {
        "state": result.state,
        "value": repr(value) if isinstance(value, BaseException) else value,
        "class": f"{type(value).__module__}.{type(value).__qualname__}",
        "args": [repr(a) for a in value.args] if isinstance(value, BaseException) else None,
        "traceback": result.traceback,
        "children": repr(result.children),
        "date_done": str(result.date_done) if result.date_done else None,
        "name": result.name,
        "task_args": result.args,
        "task_kwargs": result.kwargs,
        "worker": result.worker,
        "retries": result.retries,
        "queue": result.queue,
    }


def op_saferepr(value):
    from celery.utils.saferepr import saferepr

    return saferepr(value, 1024)


def op_json(value):
    return app_json_dumps(value).encode()


def op_compress(body, name):
    from kombu.compression import compress

    return compress(body, name)


def op_decompress(body, header):
    from kombu.compression import decompress

    return decompress(body, header)


def op_compressed_document(value, method):
    """A document as the stores write it that compress; the one used here does not."""
    from celery.backends import base

    meta = result_apps["json"].backend.encode({"status": "SUCCESS", "result": value})
    packed, header = op_compress(meta.encode(), method)
    return base.COMPRESSED_PAYLOAD_MAGIC + header.encode() + b"\x00" + packed


def op_version():
    import celery

    return celery.__version__


def main():
    answers, sys.stdout = sys.stdout, sys.stderr
    with start_worker(app, perform_ping_check=False, pool="solo", loglevel="critical", shutdown_timeout=10):
        for line in sys.stdin:
            question = pickle.loads(base64.b64decode(line))
            try:
                answer = {"answer": globals()["op_" + question.pop("op")](**question)}
            except Exception:
                answer = {"error": traceback.format_exc()}
            answers.write(b64(pickle.dumps(answer)) + "\n")
            answers.flush()


if __name__ == "__main__":
    main()
