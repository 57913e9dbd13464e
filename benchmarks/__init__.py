"""kern measured beside Celery, in one run on one machine: ``make bench``.

Absolute figures drift with the machine; what counts is the ratio. Runs of the contestants alternate, each figure is the
median over the rounds with its smallest and largest value, and work done is counted outside the broker: each task adds
one byte to a file of its process.
"""
