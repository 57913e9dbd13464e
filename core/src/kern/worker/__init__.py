"""The worker: claim → admit → run → settle.

One event loop runs in the worker's main process, and no user code with a pool that hosts processes. Each stage is one
module and takes a batch to a batch:

=============  ========================================================================================
`claiming`     how many messages to lease, and when
`admission`    what may run, what is parked, what ends here
`dispatch`     requests on their way into the pool, and how long they may wait there
`blame`        whose fault a death was
`settling`     outcomes into result store and broker, in that order or in one step
`leases`       renewal, hand-back, recovery of what dead workers held
`stopping`     signals and the graceful stop
`solo`         the pool that runs one request at a time in this process
`worker`       puts them together
=============  ========================================================================================
"""

from kern.worker.worker import Worker

__all__ = ["Worker"]
