"""A real Celery on a Redis broker that answers questions, run by Celery's interpreter; see ``celery_probe.py``.

What it writes is looked at on the server; what others wrote it consumes with kombu's own consumers.
"""

import base64
import os
import pickle
import sys
import traceback

from celery import Celery
from kombu import Consumer, Exchange, Queue

app = Celery("bytes", broker=os.environ["PEER_BROKER"], set_as_current=True)
app.conf.update(task_create_missing_queues=True)


@app.task(name="peer.add")
def add(x, y=0, text=""):
    return x + y


def queue_of(given):
    exchange = Exchange(given["exchange"], given.get("exchange_type", "direct"))
    return Queue(given["name"], exchange, routing_key=given.get("routing_key", ""), expires=given.get("expires"))


def op_publish(args, kwargs, options):
    return add.apply_async(args, kwargs, **options).id


def op_declare(queues):
    with app.connection() as connection:
        for given in queues:
            queue_of(given)(connection).declare()


def op_fanout_publish(exchange, routing_key, body):
    """With kombu's own producer, which knows the exchange's type."""
    with app.connection() as connection:
        producer = connection.Producer(exchange=Exchange(exchange, "fanout"), routing_key=routing_key)
        producer.publish(body, headers={"id": "from-celery", "task": "peer.add"})


consumers = []


def op_fanout_listen(queue):
    """Subscribe; what comes is asked for by :func:`op_heard`."""
    connection = app.connection()
    heard = []
    consumer = Consumer(connection, [queue_of(queue)], callbacks=[lambda body, message: heard.append(told(message))])
    consumer.consume()
    consumers.append((connection, heard))
    pump(connection, 0.1)  # it subscribes with the first poll


def op_heard():
    connection, heard = consumers[-1]
    pump(connection, 0.1)
    return list(heard)


def op_get(queue):
    """The next message, as kombu reads it."""
    with app.connection() as connection:
        message = Queue(queue, no_declare=True)(connection).get(no_ack=True)
        return None if message is None else told(message)


def told(message):
    return {
        "body": bytes(message.body) if isinstance(message.body, bytes) else message.body.encode(),
        "headers": message.headers,
        "properties": message.properties,
        "delivery_info": message.delivery_info,
        "delivery_tag": message.delivery_tag,
        "content_type": message.content_type,
        "content_encoding": message.content_encoding,
    }


def pump(connection, seconds):
    try:
        connection.drain_events(timeout=seconds)
    except TimeoutError:
        pass


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
