"""A real gateway whose writes or flushes of the log fail: 503, nothing runs, and it comes back by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.e2e.faulting import CALLS, suffer


@pytest.mark.parametrize("fault", ["pwrite ENOSPC", "pwrite EROFS", "fdatasync EIO", "short EIO"])
def test_a_log_that_cannot_be_written_refuses_and_nothing_runs(fault: str, tmp_path: Path) -> None:
    """Every call begun meanwhile is refused with `audit_unavailable` and has no effect, and the gateway is not ready. A
    call whose tool was running gets no result, and is in doubt. After relief calls are served; every effect has an
    intent, and the log verifies (`make prove` does twelve faults)."""
    suffered = suffer(fault, tmp_path)
    assert suffered.answers == {(503, "audit_unavailable"): CALLS}
    assert (suffered.ready, suffered.effects) == (503, 0)
    assert suffered.caught == (503, "audit_unavailable")
    assert suffered.found.broken == []
    assert suffered.found.doubtful == 1
