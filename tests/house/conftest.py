"""What the house tests share."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def worker_id(request: pytest.FixtureRequest) -> str:
    """The name of this test process, `master` when there is only one; so that these tests run without xdist too."""
    worker = getattr(request.config, "workerinput", {"workerid": "master"})
    return str(worker["workerid"])
