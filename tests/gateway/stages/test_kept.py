"""What is kept of an outcome comes back as it was, and what cannot be read is nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Artifact, Finding, Outcome, Position, Problem, Usage, Verdict
from gateway.stages.kept import NotKept, read, write
from gateway.tool import Fix

OUTCOME = Outcome(  # as the last stage makes it
    call_id="c_1",
    tool="pay",
    status="failed",
    text="ä\ud800\x00",
    structured={"f": 1.0, "n": 2**70, "list": [None, True]},
    problem=Problem("tool_error", "No.", 5, "Stop.", (Fix("/a", "b", "c"),), "rule", ("scope",), None),
    verdict=Verdict(
        "redact", frozenset({"pii"}), (Finding("s", "r", "redact", "/x", (1, 2)), Finding("s", "r", "cut"))
    ),
    usage=Usage(1.5, 2.5, 3, 0.25),
    position=Position("w1", 7),
    truncated=True,
    artifacts=(Artifact("sha256:0", "o", "a.csv", 1, "text/csv", frozenset({"x"}), "allow", "c_1", 1.0),),
)
SAME = ("tool", "status", "text", "structured", "problem", "verdict", "usage", "truncated", "artifacts")


def test_an_outcome_comes_back_as_it_was() -> None:
    """All but id and position, which are those of the repeat; 1.0 stays 1.0."""
    recalled = read("c_1", "claim", write(OUTCOME))
    assert (recalled.of, recalled.claim) == ("c_1", "claim")
    assert [getattr(recalled, name) for name in SAME] == [getattr(OUTCOME, name) for name in SAME]
    assert repr(recalled.structured) == repr(OUTCOME.structured)
    plain = replace(OUTCOME, status="done", problem=None, verdict=Verdict("allow", frozenset()), artifacts=())
    assert read("c_1", "claim", write(plain)).problem is None


@pytest.mark.parametrize("kept", [None, b"", b"null", b"[]", b"{}", b'{"v":2}', b"\xff", write(OUTCOME)[:-1]])
def test_what_cannot_be_read_is_not_kept(kept: bytes | None) -> None:
    """Erased, cut off, of another version: never a traceback, never half an outcome."""
    with pytest.raises(NotKept):
        read("c_1", "claim", kept)


@given(st.binary(max_size=64))
def test_anything_else_is_not_kept_either(kept: bytes) -> None:
    """Whatever stands there."""
    with pytest.raises(NotKept):
        read("c_1", "claim", kept)
