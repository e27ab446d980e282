"""Python in a real sandbox calls tools and fetches: what it can read of an answer, and what the ledger says of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

from gateway.app import SystemClock
from gateway.model import RawOutput
from gateway.runners.canned import Upstream
from gateway.tool import HttpBackend
from gateway.work import Work
from sandboxes.pool import WasmPython
from tests.gateway.coder import CODER, MAY_FETCH, POLICY, SPECS, code_of, lines, named, story
from tests.kit import Lab

PATIENCE = 90  # bounds a hang; nothing here measures time


@asynccontextmanager
async def coding(*rules: str, workers: int = 1, **specs: str) -> AsyncIterator[Lab]:
    """A lab with a pool of real workers."""
    pool = WasmPython(workers=workers, spares=0)
    await pool.start()
    try:
        files = SPECS | {f"{name}.yaml": text for name, text in specs.items()}
        lab = Lab.of(files, {"lab.yaml": POLICY + "".join(rules)}, Upstream(200, {"said": "hello"}), pool)
        lab.gate = replace(lab.gate, clock=SystemClock())
        yield lab
    finally:
        await pool.close()


def play(scenario: Callable[[Lab], Awaitable[None]], *rules: str, workers: int = 1, **specs: str) -> None:
    """Runs a scenario with a lab."""

    async def whole() -> None:
        async with coding(*rules, workers=workers, **specs) as lab:
            await scenario(lab)

    asyncio.run(asyncio.wait_for(whole(), PATIENCE))


def result(outcome: Any) -> Any:
    """What the code left in `result`."""
    assert outcome.problem is None, (outcome.problem, outcome.text)
    return outcome.structured["result"]


def test_code_calls_a_tool_and_is_refused_another() -> None:
    """The allowed one answers; the forbidden one is an exception whose text says why; three calls, all on record."""
    code = """
found = tools.look(what="sky")
try:
    call("send", what="news")
except ToolError as error:
    result = [found, str(error)]
"""

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("coder", {"code": code})
        found, said = result(outcome)
        assert found == {"said": "hello"}
        assert said.startswith("A rule forbids this call (forbidden). It read pages.")
        assert story(lines(lab)) == [
            ("call.intent", "coder", False),
            ("call.intent", "look", True),
            ("call.outcome", "look", True),
            ("call.refused", "send", True),
            ("call.outcome", "coder", False),
        ]
        assert {line.fields["parent_call_id"] for line in lines(lab)[1:4]} == {outcome.call_id}

    play(scenario)


def test_what_the_code_has_read_forbids_what_it_may_send() -> None:
    """Taint is judged for each call: the same send is permitted before a page was read and forbidden after it."""
    code = """
said = []
for name in ["send", "look", "send"]:
    try:
        call(name, what="a")
        said.append("done")
    except ToolError as error:
        said.append(str(error))
result = said
"""

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("coder", {"code": code})
        before, read, after = result(outcome)
        assert (before, read) == ("done", "done")
        assert "(forbidden)" in after
        assert "It read pages." in after
        assert outcome.verdict.labels == {"untrusted"}

    play(scenario)


def test_a_refusal_that_nobody_catches_is_the_codes_error() -> None:
    """The call fails with `tool_error`, and the text of the result ends with the refusal."""

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("coder", {"code": 'call("hidden", what="x")'})
        assert outcome.problem is not None
        assert (outcome.status, outcome.problem.code) == ("failed", "tool_error")
        assert "(unknown_tool)" in outcome.text

    play(scenario)


def test_code_fetches_what_spec_and_policy_allow() -> None:
    """A fetch gives status, headers and body; off the list it is an exception."""
    code = """
page = fetch("https://docs.example.com/a", headers={"X-Mine": "1"})
sent = fetch("https://docs.example.com/in", method="POST", body="hello")
try:
    fetch("https://evil.example.com/a")
except ToolError as error:
    result = [page.status, page.json(), sent.status, str(error)]
"""

    async def scenario(lab: Lab) -> None:
        status, body, sent, said = result(await lab.call("coder", {"code": code}))
        assert (status, body, sent) == (200, {"said": "hello"}, 200)
        assert "(egress_denied)" in said
        assert [(ask.method, ask.headers, ask.body) for ask in lab.trial.net.asked] == [
            ("GET", (("X-Mine", "1"),), None),
            ("POST", (), b"hello"),
        ]

    play(scenario, MAY_FETCH)


def test_code_that_calls_itself_ends() -> None:
    """With room for one job: each call within it has room of its own, until the depth that is allowed."""
    code = """
try:
    result = call("coder", code=args["code"], args=args)
except ToolError as error:
    result = str(error)
"""

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("coder", {"code": code, "args": {"code": code}})
        assert "Calls within calls go 4 deep at most." in str(result(outcome))
        assert story(lines(lab)).count(("call.outcome", "coder", True)) == 4

    play(scenario)


class Slow:
    """An upstream that does not answer."""

    def __init__(self) -> None:
        self.running = 0
        self.started = asyncio.Event()

    async def run(self, work: Work) -> RawOutput:
        self.running += 1
        self.started.set()
        try:
            await asyncio.sleep(3600)
        finally:
            self.running -= 1
        raise AssertionError("an hour has passed")


LOOKING = {"code": 'result = call("look", what="x")'}


def slowed(lab: Lab) -> Slow:
    """The lab's upstream never answers from now on."""
    upstream = Slow()
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: upstream})
    return upstream


def test_a_deadline_ends_the_nested_call_before_its_parent() -> None:
    """The parent's time is the nested call's time: both end, in this order, and the worker is gone or free again."""

    async def scenario(lab: Lab) -> None:
        upstream = slowed(lab)
        outcome = await lab.call("coder", LOOKING)
        assert outcome.problem is not None
        assert outcome.problem.code in ("timeout", "tool_error")
        assert upstream.running == 0
        assert [(line.type, named(line)) for line in lines(lab)][2:] == [
            ("call.outcome", "look"),
            ("call.outcome", "coder"),
        ]
        assert code_of(lines(lab)[2]) in ("timeout", "cancelled")

    play(scenario, coder=CODER.replace("timeout: 20s", "timeout: 1s"))


def test_a_caller_who_goes_away_ends_what_the_code_was_calling() -> None:
    """Cancelled inside first, then outside; the sandbox is killed and the next call gets a fresh one."""

    async def scenario(lab: Lab) -> None:
        upstream = slowed(lab)
        task = asyncio.create_task(lab.call("coder", LOOKING))
        await upstream.started.wait()
        task.cancel()
        await asyncio.wait({task})
        assert upstream.running == 0
        inner, outer = lines(lab)[2:]
        assert [(named(line), code_of(line)) for line in (inner, outer)] == [
            ("look", "cancelled"),
            ("coder", "cancelled"),
        ]
        assert result(await lab.call("coder", {"code": "result = 1"})) == 1

    play(scenario)


def test_code_may_not_call_more_often_than_its_limit() -> None:
    """The limit of nested calls ends the job, and names itself."""
    code = 'for _ in range(10): call("look", what="x")'

    async def scenario(lab: Lab) -> None:
        outcome = await lab.call("coder", {"code": code})
        assert outcome.problem is not None
        assert outcome.problem.code == "sandbox_limit"
        assert "host_calls" in outcome.problem.detail
        assert story(lines(lab)).count(("call.intent", "look", True)) == 3

    limited = CODER.replace("    tools:", "    limits: {host_calls: 3}\n    tools:")
    play(scenario, coder=limited)


def test_calls_that_need_a_sandbox_within_one_do_not_wait_for_each_other() -> None:
    """More callers than workers, each of whose code calls a sandboxed tool: all of them end well."""

    async def scenario(lab: Lab) -> None:
        code = 'result = call("coder", code="result = 1")["result"]'
        outcomes = await asyncio.gather(*(lab.call("coder", {"code": code}) for _ in range(6)))
        assert [result(outcome) for outcome in outcomes] == [1] * 6

    play(
        scenario, workers=2, coder=CODER.replace("timeout: 20s", "timeout: 60s")
    )  # on a busy machine workers start late
