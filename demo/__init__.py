"""``make demo``: a real worker, real work over real input, on nothing but a file.

Every Python file of the standard library becomes a task; one task fails on purpose and is retried, one message is
broken on purpose and ends in quarantine.
"""
