"""Contract suites, an in-memory transport and store, fixtures, crash points and the loss ledger.

Nothing that runs in production imports this package.
"""

import sys

# A worker under test loads this package as well, for its transport and crash points, and must not pay for pytest.
if "pytest" in sys.modules:
    import pytest

    # Otherwise a failing contract says "AssertionError" and nothing else.
    pytest.register_assert_rewrite("kern_testing.contracts", "kern_testing.waiting", "kern_testing.ledger")
