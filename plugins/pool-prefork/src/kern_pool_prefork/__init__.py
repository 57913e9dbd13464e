"""A pool of processes that run one task each."""
