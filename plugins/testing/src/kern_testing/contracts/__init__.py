"""The contract suites."""

from kern_testing.contracts.transport import TransportContract
