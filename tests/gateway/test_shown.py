"""What values show of themselves in a log or a traceback: never a credential that stands in them."""

from __future__ import annotations

import pytest

from gateway.doors.asgi import Head
from gateway.model import Request
from gateway.runners.message import Answer, Ask
from gateway.urls import parse_url

SECRET = "canary-of-a-credential"


@pytest.mark.parametrize(
    "value",
    [
        Request("c_1", "echo", {}, SECRET),
        Head({"authorization": f"Bearer {SECRET}"}),
        Ask("POST", parse_url("https://idp.test/token"), (), 0.0, (("authorization", SECRET),), SECRET.encode()),
        Answer(200, {}, SECRET.encode(), "application/json"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_no_value_on_the_way_of_a_call_shows_a_credential(value: object) -> None:
    """Whoever logs one gives nothing away."""
    assert SECRET not in repr(value)
