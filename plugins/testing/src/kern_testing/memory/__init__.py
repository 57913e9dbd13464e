"""``memory://name``: a transport and a result store in this process, held to the contracts of the real ones.

Everything under one name is one *space*, the server of these drivers: clients and workers of a process share it, and it
outlives their connections until :func:`forget`. Messages are kept as bytes, as a server would have them.
"""

from kern_testing.memory.space import Space, forget, space
from kern_testing.memory.store import MemoryPlan, MemoryResultStore
from kern_testing.memory.transport import MemoryTransport

__all__ = ["MemoryPlan", "MemoryResultStore", "MemoryTransport", "Space", "forget", "space"]
