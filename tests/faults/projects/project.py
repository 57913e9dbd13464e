"""What the workers of a fault scenario run."""

import ctypes
import os
import signal
import time
from pathlib import Path

from kern import Kern, hookimpl
from kern_testing.ledger import record, running

PLACE = Path(os.environ["KERN_TEST_PLACE"])
LEDGER = PLACE / "executions.jsonl"
WORKERS = PLACE / "workers.jsonl"
ATTEMPTS = PLACE / "attempts.jsonl"

app = Kern("faults")


class Bookkeeper:
    @hookimpl
    def kern_worker_stopping(self, worker, signal):
        record(WORKERS, "stopping", worker.id, signal=signal)

    @hookimpl
    def kern_worker_stopped(self, worker):
        record(WORKERS, "stopped", worker.id, fenced=worker.flow.fenced if worker.flow else 0)


app.register(Bookkeeper())


@app.task(bind=True)
def step(self, seconds=0.0):
    with running(LEDGER, self.request.id):
        time.sleep(seconds)  # the task's own duration
    return self.request.id


@app.task(bind=True)
def hold(self, until):
    """Until the file *until* is there; can be interrupted."""
    with running(LEDGER, self.request.id):
        while not (PLACE / until).exists():
            time.sleep(0.01)  # the task's own duration
    return self.request.id


@app.task(bind=True)
def echo(self, text):
    with running(LEDGER, self.request.id):
        return len(text)


@app.task(bind=True)
def kill(self):
    record(LEDGER, "start", self.request.id)
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def kill_worker(self):
    """Takes the worker with it: its main process and all that belong to it."""
    record(LEDGER, "start", self.request.id)
    os.kill(main_process(), signal.SIGKILL)
    os.kill(os.getpid(), signal.SIGKILL)


def main_process():
    """The process id of this worker: the oldest ancestor that lives in the same folder."""
    pid = os.getpid()
    while True:
        parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        if parent <= 1 or Path(f"/proc/{parent}/cwd").resolve() != Path.cwd():
            return pid
        pid = parent


@app.task(bind=True)
def seize(self):
    """Waits in C code for ever, without letting go of the interpreter; no signal ends that."""
    record(LEDGER, "start", self.request.id)
    mutex = ctypes.create_string_buffer(64)
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)
    ctypes.PyDLL(None).pthread_mutex_lock(mutex)


class Unavailable(Exception):
    """What the task needs is down."""


@app.task(
    bind=True, autoretry_for=(Unavailable,), retry_backoff=0.5, retry_backoff_max=2, retry_jitter=True, max_retries=None
)
def call_downstream(self):
    """Works once the file ``downstream`` is there."""
    if not (PLACE / "downstream").exists():
        record(ATTEMPTS, "attempt", self.request.id)
        raise Unavailable
    with running(LEDGER, self.request.id):
        pass


@app.task(bind=True)
def unserialisable(self):
    with running(LEDGER, self.request.id):
        return lambda: None


class Awkward(Exception):
    """Cannot be made again from its arguments."""

    def __init__(self, first, *, second):
        super().__init__(f"{first} and {second}")


@app.task(bind=True)
def awkward(self):
    with running(LEDGER, self.request.id):
        pass
    raise Awkward("this", second=object())


@app.task(bind=True, rate_limit="20/s")
def rationed(self):
    with running(LEDGER, self.request.id):
        pass


@app.task(ignore_result=True)
def count():
    """One byte for each run: for more runs than a synced line each."""
    descriptor = os.open(PLACE / "count", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(descriptor, b".")
    os.close(descriptor)
