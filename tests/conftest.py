"""What all tests share: how a test says that it needs something of the machine that may not be there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator

import pytest

from tests.engine import Engine, NoEngine, shared

Need = Callable[[object, str], None]


@pytest.fixture(scope="session")
def need() -> Need:
    """`need(there, "a Docker engine")` skips the test with that reason; with `CI=true` it fails it."""

    def check(there: object, what: str) -> None:
        if not there:
            reason = f"this test needs {what}"
            pytest.fail(reason) if os.environ.get("CI") == "true" else pytest.skip(reason)

    return check


@pytest.fixture(scope="session")
def engine(need: Need) -> Iterator[Engine]:
    """A Docker engine of the tests' own with the runner images, one for all test processes."""
    with contextlib.ExitStack() as stack:
        try:
            running = stack.enter_context(shared())
        except NoEngine as error:
            need(None, f"a Docker engine: {error}")
            raise
        yield running
