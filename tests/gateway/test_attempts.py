"""Retries and breakers in the whole pipeline, before a real backend that fails: requests are counted there."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace

import pytest

from gateway.admission import Bounds
from gateway.reliability.breaker import FAILURES, OPEN_SECONDS
from tests.gateway.failing import BROKEN, JSON, Failing, Upstream, failing, hang, hang_up, http

RETRIED = "idempotent: true\nretry: {on: [upstream_error, upstream_unreachable], backoff: 1ms..2ms}\n"
NO_ANSWER = {"timeout", "upstream_unreachable"}  # the latter where a slow machine did not even connect in time
SECRET = 'secrets: [{name: t, from: "env:T", hosts: ["127.0.0.1"], header: "Authorization: Bearer {}"}]\n'


async def earn(site: Failing, tool: str, backend: Upstream, reply: bytes = JSON) -> None:
    """Good calls, which save up retries; the backend then begins to count anew."""
    backend.replies = [reply]
    assert await site.codes(tool, 30) == [None] * 30
    backend.requests.clear()


def run(play: Callable[[Upstream], Awaitable[None]]) -> None:
    """Plays before one backend."""

    async def playing() -> None:
        async with Upstream(JSON) as backend:
            await play(backend)

    asyncio.run(asyncio.wait_for(playing(), 60))


def test_an_idempotent_tool_is_tried_again_and_the_record_says_how_often() -> None:
    """Two failures, then an answer: three requests, one call."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, RETRIED)})
        await earn(site, "look", backend)
        backend.replies = [BROKEN, BROKEN, JSON]
        outcome = await site.call("look")
        assert (outcome.status, outcome.structured) == ("done", {"said": "hello"})
        assert len(backend.requests) == 3
        assert site.outcomes()[-1]["attempt"] == 3
        assert "attempt" not in site.outcomes()[-2]

    run(play)


def test_a_backend_is_told_the_same_key_by_each_attempt() -> None:
    """So that one that knows keys does not do twice what it did already, though its answer was lost."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, RETRIED + "idempotency: {header: Idempotency-Key}\n")})
        await earn(site, "look", backend)
        backend.replies = [hang_up, BROKEN, JSON]
        assert (await site.call("look", idempotency_key="mine")).status == "done"
        heads = [request.lower().split(b"\r\n") for request in backend.requests]
        keys = [[line for line in head if line.startswith(b"idempotency-key:")] for head in heads]
        assert len(keys) == 3
        assert keys[0] == keys[1] == keys[2] != []

    run(play)


def test_an_attempt_that_the_breaker_stopped_was_none() -> None:
    """It opens at the second attempt of the second call: that call had two, and failed, as they may have happened."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, RETRIED)})
        await earn(site, "look", backend)
        backend.replies = [BROKEN]
        assert await site.codes("look", 3) == ["upstream_error", "upstream_error", "breaker_open"]
        assert len(backend.requests) == FAILURES
        assert [said.get("attempt") for said in site.outcomes()[-3:]] == [3, 2, None]

    run(play)


def test_attempts_end_when_their_number_does() -> None:
    """The last failure is the answer."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, RETRIED.replace("backoff", "attempts: 2, backoff"))})
        await earn(site, "look", backend)
        backend.replies = [BROKEN]
        assert await site.codes("look", 1) == ["upstream_error"]
        assert len(backend.requests) == 2

    run(play)


@pytest.mark.parametrize("reply", [BROKEN, hang_up])
def test_what_may_have_happened_is_not_done_twice(reply: object) -> None:
    """A tool that is not idempotent is never sent a second time, though it says to try again what was not sent."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "retry: {on: [upstream_unreachable], backoff: 1ms..2ms}\n")})
        await earn(site, "look", backend)
        backend.replies = [reply]  # type: ignore[list-item]  # one of two kinds of reply
        assert await site.codes("look", 1) == ["upstream_error"]
        assert len(backend.requests) == 1

    run(play)


def test_a_call_that_was_sent_before_it_got_lost_is_not_sent_again() -> None:
    """Redirected to where nobody is, it ends with the code of a call of which nothing was sent; but it was."""

    async def play(backend: Upstream) -> None:
        async with Upstream() as gone:
            port = gone.port
        more = "retry: {on: [upstream_unreachable], backoff: 1ms..2ms}\n"
        redirects = f'redirects: 1, allow: ["GET http://127.0.0.1:{port}/**"]}}}}'
        site = failing({"look": (backend, more)}, edit=lambda spec: spec.replace('{what}"}}', '{what}", ' + redirects))
        await earn(site, "look", backend)
        backend.replies = [http(status="302 Found", extra=f"location: http://127.0.0.1:{port}/there\r\n")]
        assert await site.codes("look", 1) == ["upstream_unreachable"]
        assert len(backend.requests) == 1

    run(play)


def test_what_was_not_sent_is_tried_again_whatever_the_tool_does() -> None:
    """Nobody listens: three attempts, and the caller is told so."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "retry: {on: [upstream_unreachable], backoff: 1ms..2ms}\n")})
        await earn(site, "look", backend, http(extra="connection: close\r\n"))  # none is left to be found broken
        await backend.__aexit__()
        outcome = await site.call("look")
        assert outcome.status == "refused"
        assert outcome.problem is not None
        assert outcome.problem.code == "upstream_unreachable"
        assert "It was tried 3 times." in outcome.problem.detail

    run(play)


def test_a_retry_that_does_not_fit_is_not_made() -> None:
    """A wait that ends after the deadline of the call is not begun."""

    async def play(backend: Upstream) -> None:
        slow = RETRIED.replace("1ms..2ms", "40s..40s")
        site = failing({"look": (backend, slow)})
        await earn(site, "look", backend)
        backend.replies = [BROKEN]
        async with asyncio.timeout(15.0):  # the wait would be 20 s
            assert await site.codes("look", 1) == ["upstream_error"]
        assert len(backend.requests) == 1

    run(play)


def test_attempts_share_the_time_where_timeouts_are_tried_again() -> None:
    """The first hangs for half of the time, the second answers in the other half."""

    async def play(backend: Upstream) -> None:
        more = "idempotent: true\nretry: {on: [timeout], attempts: 2, backoff: 1ms..2ms}\n"
        site = failing({"look": (backend, more)}, edit=lambda spec: spec.replace("timeout: 5s", "timeout: 2s"))
        await earn(site, "look", backend)
        backend.replies = [hang, JSON]
        assert await site.codes("look", 1) == [None]
        assert len(backend.requests) == 2

    run(play)


def test_no_more_than_a_tenth_of_the_calls_is_tried_again() -> None:
    """Half of all answers are failures, and each would be tried again."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, RETRIED)})
        backend.replies = [BROKEN, JSON] * 300
        calls = 200
        await site.codes("look", calls)
        assert len(backend.requests) == calls + calls // 10

    run(play)


def test_a_backend_that_fails_is_left_alone_and_taken_back_by_one_probe() -> None:
    """Five requests open it; then none, whoever calls, and no credential is fetched; then exactly one of twenty."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, SECRET)})
        backend.replies = [BROKEN]
        assert await site.codes("look", FAILURES + 10) == ["upstream_error"] * FAILURES + ["breaker_open"] * 10
        assert (len(backend.requests), site.vault.asked) == (FAILURES, FAILURES)
        assert site.outcomes()[-1]["outcome"]["retry_after_ms"] > 0  # type: ignore[index]  # an object

        came, released = asyncio.Event(), asyncio.Event()

        async def slow(writer: asyncio.StreamWriter) -> None:
            came.set()
            await released.wait()
            writer.write(JSON)

        backend.replies = [slow, JSON]
        site.clock.ahead += OPEN_SECONDS
        probe = asyncio.create_task(site.call("look"))
        await came.wait()
        assert await site.codes("look", 20) == ["breaker_open"] * 20
        released.set()
        assert (await probe).problem is None
        assert len(backend.requests) == FAILURES + 1
        assert await site.codes("look", 3) == [None] * 3
        assert [standing.state for standing in site.told] == ["open", "half_open", "closed"]

    run(play)


def test_a_probe_whose_caller_goes_away_leaves_its_place_to_the_next() -> None:
    """Nothing was learnt, so the next call finds out."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "")})
        backend.replies = [BROKEN]
        await site.codes("look", FAILURES)
        came = asyncio.Event()

        async def hanging(writer: asyncio.StreamWriter) -> None:
            came.set()
            await hang(writer)

        backend.replies = [hanging, JSON]
        site.clock.ahead += OPEN_SECONDS
        probe = asyncio.create_task(site.call("look"))
        await came.wait()
        probe.cancel()
        await asyncio.wait({probe})
        assert await site.codes("look", 1) == [None]

    run(play)


def test_a_call_that_is_not_sent_is_not_counted() -> None:
    """It is refused, so that what it took of the session's budget comes back."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "")})
        backend.replies = [BROKEN]
        await site.codes("look", FAILURES + 3)
        assert [said["outcome"]["status"] for said in site.outcomes()] == (  # type: ignore[index]  # an object
            ["failed"] * FAILURES + ["refused"] * 3
        )

    run(play)


def test_what_is_the_callers_own_fault_opens_nothing() -> None:
    """An endpoint that says that the call is wrong is well, however often it says so."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "")})
        backend.replies = [http(status="404 Not Found")]
        assert await site.codes("look", 4 * FAILURES) == ["tool_error"] * 4 * FAILURES
        assert site.told == []

    run(play)


def test_a_tenant_does_not_stall_another() -> None:
    """One has its calls fail until its breaker opens; the other's go through."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "")})
        site.stranger("umbra")
        backend.replies = [BROKEN]
        await site.codes("look", FAILURES)
        backend.replies = [JSON]
        assert await site.codes("look", 1) == ["breaker_open"]
        assert (await site.call("look", by="umbra")).problem is None

    run(play)


def test_one_backend_has_one_breaker_whatever_its_tools() -> None:
    """Two tools of one scheme, host and port stand and fall together; one of another port does not."""

    async def play(backend: Upstream) -> None:
        async with Upstream(JSON) as other:
            site = failing({"look": (backend, ""), "see": (backend, ""), "far": (other, "")})
            backend.replies = [BROKEN]
            await site.codes("look", FAILURES)
            assert await site.codes("see", 1) == ["breaker_open"]
            assert await site.codes("far", 1) == [None]

    run(play)


def test_a_backend_that_hangs_is_left_alone_too() -> None:
    """What ends at the tool's own timeout counts like an error."""

    async def play(backend: Upstream) -> None:
        site = failing({"look": (backend, "")}, edit=lambda spec: spec.replace("timeout: 5s", "timeout: 500ms"))
        backend.replies = [hang]
        codes = await asyncio.gather(*(site.codes("look", 1) for _ in range(FAILURES)))
        assert {code for many in codes for code in many} <= NO_ANSWER
        assert await site.codes("look", 2) == ["breaker_open"] * 2
        assert len(backend.requests) <= FAILURES

    run(play)


def test_a_timeout_that_policy_shortened_says_nothing_about_the_backend() -> None:
    """Whoever is given little time must not take the tool from all others."""

    async def play(backend: Upstream) -> None:
        policy = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: all-ok, effect: permit, match: {tools: ["*"], agents: ["*"]}, with: {timeout: 100ms}}
"""
        site = failing({"look": (backend, "")}, policy)
        backend.replies = [hang]
        codes = await asyncio.gather(*(site.codes("look", 1) for _ in range(2 * FAILURES)))
        assert {code for many in codes for code in many} <= NO_ANSWER
        assert site.told == []

    run(play)


def test_a_hanging_tool_takes_no_place_of_another() -> None:
    """All places of one tool are taken by calls that hang, of whoever: its next calls are refused, others go on."""

    async def play(backend: Upstream) -> None:
        async with Upstream(JSON) as well:
            site = failing({"look": (backend, ""), "see": (well, "")})
            site.stranger("umbra")
            site.lab.gate = replace(site.lab.gate, bounds=Bounds(concurrency=4, bulkhead=6))
            came = asyncio.Event()

            async def hanging(writer: asyncio.StreamWriter) -> None:
                if len(backend.requests) == 6:
                    came.set()
                await hang(writer)

            backend.replies = [hanging]
            stuck = [asyncio.create_task(site.call("look", by=by)) for by in ("dev", "umbra") for _ in range(3)]
            await came.wait()
            assert await site.codes("look", 5) == ["concurrency_limited"] * 5
            assert await asyncio.gather(*(site.codes("see", 5) for _ in range(4))) == [[None] * 5] * 4
            for task in stuck:
                task.cancel()
            await asyncio.wait(stuck)
            assert len(backend.requests) == 6

    run(play)
