"""What all tests share: how a test says that it needs something of the machine that may not be there."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

Need = Callable[[object, str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(there, "a Docker engine")` skips the test with that reason; with `CI=true` it fails it."""

    def check(there: object, what: str) -> None:
        if not there:
            reason = f"this test needs {what}"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    return check
