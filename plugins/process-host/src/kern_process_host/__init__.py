"""Processes that run tasks: forked from a zygote, watched, and never orphaned."""

from kern_process_host.evidence import CUT_OFF, Ending, OomCounter, of_death
from kern_process_host.home import Abandoned, Home
from kern_process_host.host import Host, Owner
from kern_process_host.hosted import Hosted, Leave
from kern_process_host.process import Process
from kern_process_host.slots import Slot

__all__ = [
    "CUT_OFF",
    "Abandoned",
    "Ending",
    "Home",
    "Host",
    "Hosted",
    "Leave",
    "OomCounter",
    "Owner",
    "Process",
    "Slot",
    "of_death",
]
