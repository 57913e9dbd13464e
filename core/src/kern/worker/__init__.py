"""The worker: claim → admit → run → settle.

One event loop runs in the worker's main process, and no user code with a pool that hosts processes. Each stage is one
module and takes a batch to a batch:

=============  ========================================================================================
`claiming`     how many messages to lease, and when
`intake`       what becomes of a claimed batch, with `admission`: what may run, what is parked, what ends;
               `rates`: limits of runs a second
`dispatch`     requests on their way into the pool, and how long they may wait there; `neighbours`: whether
               somebody else could run them
`solo`         the pool that runs one request at a time in this process
`progress`     what is told of tasks on their way; `limits`: hard limits where the pool cannot kill
`blame`        whose fault a death was; `endings`: the outcomes that the worker makes itself
`settling`     outcomes into result store and broker, in that order or in one step
`leases`       renewal, and recovery of what dead workers held
`link`         the connection to the broker, which can be made anew; `watchdog`: when it has to be
=============  ========================================================================================

`flow` puts them together, over the table of what is in flight (`state`). `worker` is the life around it: `connecting`,
`services`, `stopping`, and the `chores` that run beside the stages.
"""

from kern.worker.worker import Worker

__all__ = ["Worker"]
