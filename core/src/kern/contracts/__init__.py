"""The contracts: what a driver owes.

=================================  ==================================================================
:mod:`~kern.contracts.transport`     moving messages: publish, claim, settle, renew, park, broadcast
:mod:`~kern.contracts.result_store`  keeping results: documents, waiting, groups, joins, plans
:mod:`~kern.contracts.pool`          running requests
:mod:`~kern.contracts.scheduler`     saying what is due
:mod:`~kern.contracts.monitor`       taking in events
:mod:`~kern.contracts.records`       small shared facts, a capability of transports and stores
:mod:`~kern.contracts.continuation`  what follows an outcome: links, chains, chords
:mod:`~kern.contracts.service`       what lives in a worker: start, tick, stop
=================================  ==================================================================

Each is proven by a suite of the same name in ``kern_testing``.
"""
