"""A message on loan: what a claim hands to a worker."""

from __future__ import annotations

import attrs

from kern.message import Message


@attrs.frozen
class Delivery:
    """A message plus its lease.

    The lease is the claim's own: its :attr:`receipt` is made by the claim and unique to it, so that a worker that lost
    its lease cannot settle the delivery of the worker that has it now.
    """

    #: Proof of the lease, made by the claim.
    receipt: str
    #: The queue it was claimed from.
    queue: str
    #: Who holds the lease: the id of the claiming connection's owner.
    owner: str
    #: ``None`` when the broker's record could not be read as a message; then :attr:`raw` and :attr:`problem` say why.
    message: Message | None
    #: Deaths so far for which this message is to blame.
    attempts: int = 0
    #: It was delivered before, to somebody who did not settle it.
    redelivered: bool = False
    #: The worker that held it last died with it: it must run alone, marked as started first.
    suspect: bool = False
    #: The broker's record, when it could not be read.
    raw: bytes | None = None
    #: Why it could not be read.
    problem: str | None = None
    exchange: str = ""
    routing_key: str = ""
    #: When the message became ready (seconds since the epoch), where the broker knows.
    ready_since: float | None = None
    #: When it was first parked for the reason it was parked for last, and how often since; for growing delays.
    parked_since: float | None = None
    times_parked: int = 0
    #: That reason; ``None`` when it was not parked, or the broker does not keep it.
    parked_reason: str | None = None

    @property
    def task_id(self) -> str:
        """Id of the call, or the receipt when the message has none that can be read."""
        return (self.message.task_id if self.message is not None else None) or self.receipt
