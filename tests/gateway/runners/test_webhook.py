"""The notice that a call waits: signed, delivered in the end, and nothing in it that is nobody's business."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import Any

from gateway.identity.vault import local_vault
from gateway.obligations import Approval
from gateway.parked import Parked
from gateway.runners.webhook import ATTEMPTS, Webhook, key_of
from gateway.trial import StillClock
from tests.gateway.runners.servers import Upstream, http, new_net

Run = Callable[[Coroutine[Any, Any, None]], None]
KEY = base64.b64encode(b"a key of thirty-two random octets").decode()
NOW = StillClock().now()
PARKED = Parked(
    id="a_1",
    binding="sha256:00",
    call_id="c_1",
    tool="refund",
    tool_digest="sha256:11",
    tenant="default",
    owner="default\x1fdev\x1fbob",
    agent="dev",
    user="bob\u202e",
    token_id="k_dev",
    session="u_1",
    needs=(Approval("large", ("group:managers",), 900.0),),
    asked_at=NOW,
    expires_at=NOW + 900,
    arguments={"card": "the-whole-secret-payload"},
)


class Naps:
    """Sleep that takes no time, and moves the clock."""

    def __init__(self, clock: StillClock) -> None:
        self.clock, self.taken = clock, list[float]()

    async def __call__(self, seconds: float) -> None:
        """Notes how long it would have been."""
        self.taken.append(seconds)
        self.clock.at += seconds


async def told(receiver: Upstream, parked: Parked = PARKED) -> list[float]:
    """Delivers one notice; the waits between the attempts."""
    clock = StillClock(NOW)
    naps = Naps(clock)
    url = f"http://127.0.0.1:{receiver.port}/hook"
    hook = Webhook(url, "env:HOOK", new_net(), local_vault({"HOOK": f"whsec_{KEY}"}), clock, naps)
    hook.asked(parked)
    beside = asyncio.create_task(hook.deliver())
    async with asyncio.timeout(20):
        await hook.drained()
    beside.cancel()
    await asyncio.wait({beside})
    return naps.taken


def test_a_notice_is_signed_as_receivers_expect(run: Run) -> None:
    """Id, time and body are signed with the decoded key, in the three headers of Standard Webhooks."""

    async def test() -> None:
        async with Upstream(http(b"", "204 No Content")) as receiver:
            await told(receiver)
        (request,) = receiver.requests
        head, _, body = request.partition(b"\r\n\r\n")
        headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n")[1:])
        assert headers["webhook-id"] == "a_1"
        assert headers["webhook-timestamp"] == str(int(NOW))
        signed = f"a_1.{int(NOW)}.".encode() + body
        mac = hmac.new(base64.b64decode(KEY), signed, hashlib.sha256).digest()
        assert headers["webhook-signature"] == "v1," + base64.b64encode(mac).decode()

    run(test())


def test_a_notice_names_the_call_and_shows_none_of_it(run: Run) -> None:
    """Which tool, whose, who has to answer until when; of the arguments the digest, and names without bidi."""

    async def test() -> None:
        async with Upstream(http(b"", "200 OK")) as receiver:
            await told(receiver)
        body = receiver.requests[0].partition(b"\r\n\r\n")[2]
        said = json.loads(body)
        assert (said["type"], said["data"]["id"], said["data"]["tool"]) == ("approval.requested", "a_1", "refund")
        assert said["data"]["user"] == "bob\\u{202e}"
        assert said["data"]["needs"] == [{"rule": "large", "by": ["group:managers"]}]
        assert b"the-whole-secret-payload" not in body
        assert KEY.encode() not in body

    run(test())


def test_a_notice_that_is_not_taken_is_sent_again(run: Run) -> None:
    """After waits that double; the third is taken, and no fourth is sent. 410 is an answer too."""

    async def test() -> None:
        broken, fine = http(b"", "500 Broken"), http(b"", "200 OK")
        async with Upstream(broken, broken, fine) as receiver:
            assert await told(receiver) == [1.0, 2.0]
            assert len(receiver.requests) == 3
        async with Upstream(http(b"", "410 Gone")) as receiver:
            assert await told(receiver) == []

    run(test())


def test_a_notice_is_given_up(run: Run) -> None:
    """After so many attempts, or once the approval has expired."""

    async def test() -> None:
        async with Upstream(*[http(b"", "500 Broken")] * 9) as receiver:
            assert len(await told(receiver)) == ATTEMPTS - 1
            assert len(receiver.requests) == ATTEMPTS
        async with Upstream(*[http(b"", "500 Broken")] * 9) as receiver:
            await told(receiver, replace(PARKED, expires_at=NOW + 2))
            assert len(receiver.requests) == 2

    run(test())


def test_a_key_is_a_text_or_base64() -> None:
    """`whsec_` and Base64 as such systems give it, or any text; what only looks like the one is the other."""
    assert key_of(f"whsec_{KEY}") == b"a key of thirty-two random octets"
    assert key_of("a plain one") == b"a plain one"
    assert key_of("whsec_?") == b"whsec_?"
