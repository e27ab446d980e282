"""What runs instead of a call that could not be sent: a call of its own, decided and recorded on its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from gateway.reliability.breaker import FAILURES
from gateway.work import Calls, Work
from tests.gateway.coder import CODER, lines, named, playing, told
from tests.gateway.failing import BROKEN, JSON, POLICY, Upstream, failing, http

FALLBACK = "fallback: other\n"
OTHER = "labels: {output: [pii]}\n"
NO_OTHER = POLICY + "- {id: no-other, effect: forbid, match: {tools: [other]}, when: ['args.what == \"war\"']}\n"


def run(play: Callable[[Upstream, Upstream], Awaitable[None]]) -> None:
    """Plays before two backends."""

    async def playing() -> None:
        async with Upstream(JSON) as first, Upstream(http(b'{"said": "other"}', kind="application/json")) as second:
            await play(first, second)

    asyncio.run(asyncio.wait_for(playing(), 60))


def test_an_open_breaker_has_the_fallback_answer() -> None:
    """With the same arguments; its labels are labels of the result, and the record says who answered."""

    async def play(first: Upstream, second: Upstream) -> None:
        site = failing({"look": (first, FALLBACK), "other": (second, OTHER)})
        first.replies = [BROKEN]
        assert await site.codes("look", FAILURES) == ["upstream_error"] * FAILURES
        assert second.requests == []  # what was sent is not done by another
        outcome = await site.call("look", "sky")
        assert (outcome.status, outcome.structured) == ("done", {"said": "other"})
        assert outcome.verdict.labels == {"untrusted", "pii"}
        assert [request.split(b" ")[1] for request in second.requests] == [b"/sky"]
        assert len(first.requests) == FAILURES
        inner, outer = site.outcomes()[-2:]
        assert inner["parent_call_id"] == outer["call_id"] == outcome.call_id
        assert (outer["attempt"], outer["answered_by"], outer["origin"]) == (0, "fallback", "fallback other")
        assert "answered_by" not in inner
        assert [(line.type, named(line)) for line in lines(site.lab)[-4:]] == [
            ("call.intent", "look"),
            ("call.intent", "other"),
            ("call.outcome", "other"),
            ("call.outcome", "look"),
        ]

    run(play)


def test_a_backend_that_nobody_can_reach_has_it_answer_at_once() -> None:
    """Nothing was sent, so nothing is done twice."""

    async def play(first: Upstream, second: Upstream) -> None:
        await first.__aexit__()
        site = failing({"look": (first, FALLBACK), "other": (second, "")})
        assert (await site.call("look")).structured == {"said": "other"}

    run(play)


def test_a_fallback_is_permitted_by_itself_or_does_not_run() -> None:
    """What is refused then is the call, in its own words; nothing ran."""

    async def play(first: Upstream, second: Upstream) -> None:
        await first.__aexit__()
        site = failing({"look": (first, FALLBACK), "other": (second, "")}, NO_OTHER)
        outcome = await site.call("look", "war")
        assert outcome.status == "refused"
        assert outcome.problem is not None
        assert outcome.problem.code == "upstream_unreachable"
        assert outcome.problem.detail.endswith("Its fallback other did not run either (forbidden).")
        assert second.requests == []

    run(play)


def test_a_fallback_takes_arguments_by_its_own_schema() -> None:
    """What it cannot take it does not get."""

    async def play(first: Upstream, second: Upstream) -> None:
        await first.__aexit__()
        site = failing(
            {"look": (first, FALLBACK), "other": (second, "")},
            edit=lambda spec: spec.replace("string}", "string, maxLength: 3}") if "name: other" in spec else spec,
        )
        outcome = await site.call("look", "long")
        assert outcome.problem is not None
        assert outcome.problem.detail.endswith("(invalid_arguments).")
        assert (await site.call("look", "sky")).status == "done"

    run(play)


def test_a_fallback_that_failed_may_have_happened() -> None:
    """So the call failed: nobody is told that nothing ran."""

    async def play(first: Upstream, second: Upstream) -> None:
        await first.__aexit__()
        second.replies = [BROKEN]
        site = failing({"look": (first, FALLBACK), "other": (second, "")})
        outcome = await site.call("look")
        assert (outcome.status, outcome.problem and outcome.problem.code) == ("failed", "upstream_error")

    run(play)


def test_fallbacks_follow_each_other_to_the_last() -> None:
    """Each is a call within the one before."""

    async def play(first: Upstream, second: Upstream) -> None:
        await first.__aexit__()
        tools = {"look": (first, "fallback: middle\n"), "middle": (first, FALLBACK), "other": (second, "")}
        site = failing(tools)
        assert (await site.call("look")).structured == {"said": "other"}
        assert [named(line) for line in lines(site.lab) if line.type == "call.outcome"] == ["other", "middle", "look"]

    run(play)


def test_code_may_not_call_the_fallback_of_its_tool() -> None:
    """It stands in for the tool and is no right of its code."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "send", b'{"what": "a"}')

    ungranted = CODER.replace("tools: [look, send, hidden, coder]", "tools: [look]")
    lab = playing(play, specs={"coder.yaml": ungranted + "fallback: send\n"})
    outcome = asyncio.run(lab.call("coder", {"code": "played"}))
    assert "(no_permit)" in str(outcome.structured)
