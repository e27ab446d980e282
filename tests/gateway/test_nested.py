"""Calls within a call: who makes them, what they may, how deep; the code is played, the rest is real."""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from typing import Any

import pytest

from gateway.loading import load_files
from gateway.model import RawOutput, Session
from gateway.problems import problem
from gateway.stores.sessions import MemorySessions
from gateway.tool import HttpBackend, SandboxBackend
from gateway.work import Calls, NestedRefusal, Work
from tests.gateway.coder import CODER, POLICY, SPECS, code_of, lines, named, playing, story, told
from tests.kit import DEV, Lab

OUTCOME = "call.outcome"
RUN = {"code": "played"}
LOOKING = b'{"what": "sky"}'


def test_a_nested_call_is_on_record_and_linked_to_its_parent() -> None:
    """Two calls, four lines: each nested line names the parent's call, and the parent's ends last."""

    async def play(work: Work, calls: Calls) -> object:
        return json.loads(await calls.call("look", LOOKING))

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.structured == {"result": {"said": "hello"}}
    assert story(lines(lab)) == [
        ("call.intent", "coder", False),
        ("call.intent", "look", True),
        ("call.outcome", "look", True),
        ("call.outcome", "coder", False),
    ]
    inner = lines(lab)[1:3]
    assert {line.fields["parent_call_id"] for line in inner} == {outcome.call_id}
    assert all(line.fields["call_id"] != outcome.call_id for line in inner)
    assert inner[0].content["arguments"] == {"what": "sky"}  # type: ignore[index]  # as read back


def test_labels_of_nested_results_are_labels_of_the_result() -> None:
    """What the code read is in what it says: also when it failed after reading."""

    async def play(work: Work, calls: Calls) -> object:
        before = calls.labels
        await calls.call("look", LOOKING)
        assert (before, calls.labels) == (frozenset(), {"untrusted"})
        return "ok"

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.verdict.labels == {"untrusted"}
    assert lines(lab)[-1].fields["labels_added"] == ["untrusted"]


def test_what_code_has_read_counts_at_its_next_call() -> None:
    """The session is read anew for each nested call: a send before the read goes out, one after it does not."""

    async def play(work: Work, calls: Calls) -> object:
        return [
            await told(calls, "send", b'{"what": "a"}'),
            await told(calls, "look", LOOKING),
            await told(calls, "send", b'{"what": "a"}'),
        ]

    outcome = asyncio.run(playing(play).call("coder", RUN))
    before, read, after = outcome.structured["result"]  # type: ignore[index]  # a list
    assert (before, read) == ("", "")
    assert after == "A rule forbids this call (forbidden). It read pages. Do not repeat the same call."


def test_a_result_that_was_cut_is_not_given_to_code_as_if_it_were_whole() -> None:
    """A reader sees the mark beside a cut text; a program would count, or send on, what is only its beginning."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "look", LOOKING)

    short = SPECS["look.yaml"].replace("effects:", "limits: {output: 8B}\neffects:")
    outcome = asyncio.run(playing(play, specs={"look.yaml": short}).call("coder", RUN))
    said = outcome.structured["result"]  # type: ignore[index]  # a text
    assert "(output_too_large)" in said
    assert "hello" not in said


def test_code_may_not_call_what_its_agent_may_not() -> None:
    """A tool that the spec grants and policy does not: the same words as for one that does not exist."""

    async def play(work: Work, calls: Calls) -> object:
        return [await told(calls, name, LOOKING) for name in ("hidden", "ghost")]

    lab = playing(play)
    coder = lab.gate.catalogue.find("coder")
    assert coder is not None
    assert isinstance(coder.backend, SandboxBackend)
    ghostly = replace(coder, backend=replace(coder.backend, tools=coder.backend.tools | {"ghost"}))

    class Ghostly:
        """A catalogue in which the spec also grants what is not there."""

        def find(self, name: str) -> Any:
            return ghostly if name == "coder" else lab.trial.gate.catalogue.find(name)

        def all(self) -> Any:
            return lab.trial.gate.catalogue.all()

    lab.gate = replace(lab.gate, catalogue=Ghostly())
    outcome = asyncio.run(lab.call("coder", RUN))
    hidden, ghost = outcome.structured["result"]  # type: ignore[index]  # a list
    assert hidden == ghost
    assert "(unknown_tool)" in hidden


def test_code_may_not_call_what_its_spec_does_not_grant() -> None:
    """Whether the agent itself may or not; it is on record as a refusal."""

    async def play(work: Work, calls: Calls) -> object:
        return [await told(calls, name, b"{}") for name in ("echo", "nothing")]

    lab = playing(play, "- {id: echo-too, effect: permit, match: {tools: [echo]}}\n", specs={"echo.yaml": ECHO})
    outcome = asyncio.run(lab.call("coder", RUN))
    echo, nothing = outcome.structured["result"]  # type: ignore[index]  # a list
    assert echo == nothing
    assert "(no_permit)" in echo
    assert [code_of(line) for line in lines(lab) if line.type == "call.refused"] == ["no_permit", "no_permit"]


ECHO = SPECS["look.yaml"].replace("name: look", "name: echo")


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"", "malformed"),
        (b"nonsense", "malformed"),
        (b'{"what": 1, "what": 2}', "malformed"),
        (b'{"what": NaN}', "malformed"),
        (b"\xff", "malformed"),
        (b"[" * 5000, "malformed"),
        (b'{"what": "' + b"x" * 1_100_000 + b'"}', "too_large"),
        (b"[1]", "invalid_arguments"),
        (b"null", "invalid_arguments"),
        (b'{"else": 1}', "invalid_arguments"),
    ],
)
def test_garbage_for_arguments_is_refused_on_record(sent: bytes, code: str) -> None:
    """Code sends bytes: they go through the strict decoder and the schema, as anybody's."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "look", sent)

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.status == "done"
    assert f"({code})" in str(outcome.structured)
    (refused,) = [line for line in lines(lab) if line.type == "call.refused"]
    assert (code_of(refused), refused.fields["parent_call_id"]) == (code, outcome.call_id)


def test_calls_within_calls_have_an_end() -> None:
    """Four deep and no deeper; the fifth is refused, and the four above it end well."""

    async def play(work: Work, calls: Calls) -> object:
        try:
            return json.loads(await calls.call("coder", b'{"code": "again"}'))
        except NestedRefusal as refusal:
            return str(refusal)

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "Calls within calls go 4 deep at most." in str(outcome.structured)
    found = story(lines(lab))
    assert found.count(("call.intent", "coder", True)) == 4
    assert found.count(("call.refused", "coder", True)) == 1
    parents = [line.fields.get("parent_call_id") for line in lines(lab) if line.type == "call.intent"]
    ids = [line.fields["call_id"] for line in lines(lab) if line.type == "call.intent"]
    assert parents == [None, *ids[:4]]


def test_calls_within_calls_draw_on_one_allowance() -> None:
    """So many calls as the outermost spec says, at all depths together: no tree of calls grows beyond it."""

    async def play(work: Work, calls: Calls) -> object:
        said = [await told(calls, "coder", b'{"code": "again"}') for _ in range(3)]
        return [text for text in said if "as many calls as it may" in text]

    spec = CODER.replace("    tools:", "    limits: {host_calls: 5}\n    tools:")
    lab = playing(play, specs={"coder.yaml": spec})
    outcome = asyncio.run(lab.call("coder", RUN))
    assert outcome.status == "done"
    assert (
        story(lines(lab)).count(("call.intent", "coder", True))
        + len([line for line in lines(lab) if line.type == "call.refused"])
        == 5
    )


def test_a_call_does_not_wait_for_its_own_slot() -> None:
    """With room for one call of the tool, its code calling it is refused at once."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "coder", b'{"code": "again"}')

    spec = CODER.replace("timeout: 20s", "timeout: 20s\nlimits: {concurrency: 1}")
    outcome = asyncio.run(playing(play, specs={"coder.yaml": spec}).call("coder", RUN))
    assert "(concurrency_limited)" in str(outcome.structured)


def test_rates_count_nested_calls() -> None:
    """A limit of the tool holds whoever calls it."""

    async def play(work: Work, calls: Calls) -> object:
        return [await told(calls, "look", LOOKING) for _ in range(3)]

    spec = SPECS["look.yaml"].replace("effects: [read]", "effects: [read]\nlimits: {calls: 2/1m}")
    outcome = asyncio.run(playing(play, specs={"look.yaml": spec}).call("coder", RUN))
    said = outcome.structured["result"]  # type: ignore[index]  # a list
    assert said[:2] == ["", ""]
    assert "(rate_limited)" in said[2]


def test_a_key_revoked_meanwhile_ends_what_code_may_do() -> None:
    """The next nested call is refused, on record under the caller that is known; what is running goes on."""

    async def play(work: Work, calls: Calls) -> object:
        first = await told(calls, "look", LOOKING)
        del lab.trial.authority.principals["dev"]
        return [first, await told(calls, "look", LOOKING)]

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    first, second = outcome.structured["result"]  # type: ignore[index]  # a list
    assert first == ""
    assert "(unauthenticated)" in second
    (refused,) = [line for line in lines(lab) if line.type == "call.refused"]
    assert (named(refused), refused.fields["parent_call_id"]) == ("look", outcome.call_id)
    assert refused.fields["session_id"] == "default"


def test_a_key_that_became_somebody_elses_is_no_key() -> None:
    """A nested call never changes its caller."""

    async def play(work: Work, calls: Calls) -> object:
        lab.trial.authority.principals["dev"] = replace(DEV, agent="other")
        return await told(calls, "look", LOOKING)

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(unauthenticated)" in str(outcome.structured)


@pytest.mark.parametrize("how", ["closed", "expired", "opened anew"])
def test_a_session_that_ended_meanwhile_ends_what_code_may_do(how: str) -> None:
    """Also the default session, which is not opened anew for a nested call, and one of the same name is another."""

    async def play(work: Work, calls: Calls) -> object:
        sessions = lab.gate.sessions
        assert isinstance(sessions, MemorySessions)
        there = sessions.find(DEV.key, "default")
        assert isinstance(there, Session)
        changes = {"closed": {"state": "closed"}, "expired": {"expires_at": 0.0}, "opened anew": {"uid": "u_other"}}
        sessions.put(replace(there, **changes[how]))  # type: ignore[arg-type]  # one field each
        return await told(calls, "look", LOOKING)

    lab = playing(play)
    outcome = asyncio.run(lab.call("coder", RUN))
    assert "(session_closed)" in str(outcome.structured)
    (refused,) = [line for line in lines(lab) if line.type == "call.refused"]
    assert refused.fields["parent_call_id"] == outcome.call_id


def test_a_tool_that_failed_speaks_to_the_code_in_its_own_words() -> None:
    """The tool's text, then what an agent would read of the problem."""

    async def play(work: Work, calls: Calls) -> object:
        return await told(calls, "look", LOOKING)

    lab = playing(play)

    class Failing:
        """A tool that says why it failed."""

        async def run(self, work: Work) -> RawOutput:
            return RawOutput("no such sky", problem=problem("tool_error", "Status 404."))

    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: Failing()})
    outcome = asyncio.run(lab.call("coder", RUN))
    said = outcome.structured["result"]  # type: ignore[index]  # a text
    assert said.startswith("no such sky\nThe tool reported an error (tool_error). Status 404.")


def test_a_tool_without_grants_gets_no_way_back_in() -> None:
    """Where the spec names no tools and no network, the runner is handed nothing to call with."""
    seen: list[Work] = []

    class Looks:
        """Keeps the work it gets."""

        async def run(self, work: Work) -> RawOutput:
            seen.append(work)
            return RawOutput("ok")

    plain = CODER.split("    tools:")[0]
    lab = Lab.over(load_files({"coder.yaml": plain.encode()}, {"p.yaml": PLAIN.encode()}))
    lab.gate = replace(lab.gate, runners={SandboxBackend: Looks()})
    assert asyncio.run(lab.call("coder", RUN)).status == "done"
    assert [work.calls for work in seen] == [None]


PLAIN = "\n".join(line for line in POLICY.splitlines() if "look" not in line and "send" not in line)
