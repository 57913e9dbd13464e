"""The contract suites. A driver's tests subclass one and say how to make a connection; that is all::

    class TestRedisTransport(TransportContract):
        @pytest.fixture
        def make_transport(self, redis_url):
            return lambda: RedisTransport(redis_url)

=============================================  ==================================  ===========================
suite                                          fixture to give                     makes
=============================================  ==================================  ===========================
:class:`~.transport.TransportContract`         ``make_transport()``                a (blocking) transport
:class:`~.result_store.ResultStoreContract`    ``make_store(result_expires=None)``  a (blocking) result store
:class:`~.joint.JointSettlementContract`       both                                of one server
:class:`~.pool.PoolContract`                   ``make_pool(slots)``                a pool
:class:`~.scheduler.SchedulerContract`         ``make_scheduler()``                a scheduler
:class:`~.monitor.MonitorContract`             ``make_monitor()``                  a monitor
=============================================  ==================================  ===========================

What a driver makes is not started yet, and all that one test makes is of one server that no other test uses. A
capability that a driver does not declare is tested, too: it has to be refused by name. What cannot be said as a
capability is an attribute of the suite, to be overridden with the reason beside it.
"""

from kern_testing.contracts.joint import JointSettlementContract
from kern_testing.contracts.monitor import MonitorContract
from kern_testing.contracts.pool import PoolContract
from kern_testing.contracts.result_store import ResultStoreContract
from kern_testing.contracts.scheduler import SchedulerContract
from kern_testing.contracts.transport import TransportContract

__all__ = [
    "JointSettlementContract",
    "MonitorContract",
    "PoolContract",
    "ResultStoreContract",
    "SchedulerContract",
    "TransportContract",
]
