"""Who is measured. A contestant is a module that makes an application and knows how its worker is started.

To add one, write a module with these names, and a line in :data:`benchmarks.lineup.CONTESTANTS` with the environment it
runs in (it imports nothing but its own library and :mod:`benchmarks.counter`):

``tasks``
    Name → task, for ``nothing`` (counts itself, result stored), ``ignored`` (the same without a result), ``add`` (of
    two numbers), ``compute`` (2 ms of processor time), ``due`` (of the time it was due, whose lateness it notes) and
    ``sized`` (of a text). A task has ``delay(*args)``; what that gives has ``get(timeout=…)``.
``publish_one_by_one(task, number, *args)``
    As a web request does it: confirmed before the next is made.
``publish_bulk(task, number, *args)``
    As many as there are, the fastest way that is meant for it; gives the handles of the results.
``publish_due(times)``
    The task ``due`` for each of these times (seconds since the epoch), not to be run before.
``results(handles)``
    All results of what ``publish_bulk`` gave.
``worker_command(processes, name, pool)``
    The command line of a worker: so many processes, its node name, ``prefork`` or ``solo``. Once it takes messages it
    calls :func:`benchmarks.counter.ready`.

The broker's URL is in the environment as ``BENCH_BROKER``, the result store's as ``BENCH_BACKEND``, the folder of the
tallies as ``BENCH_FOLDER``.
"""
