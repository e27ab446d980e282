"""Idempotency keys along the line of stages: one key is one call, and a repeat gets what is on record of it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from gateway.admission import Claim, Claimed
from gateway.model import Failure, Outcome, Position, Principal, RawOutput
from gateway.ports import Line
from gateway.problems import problem, refuse
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryLedger
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.kit import Lab, of_calls

SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: pay
version: 1.0.0
description: Pays.
input_schema:
  type: object
  properties:
    amount: {type: integer}
    to: {type: string, default: bob}
  required: [amount]
effects: [write]
runner:
  http: {method: POST, url: "https://pay.example.com/pay", json: {amount: "{amount}"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: lab
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay]}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 1], message: Once an hour.}
"""
PERMIT = """
apiVersion: toolgate/v1
kind: Policy
id: lab
rules:
- {id: ok, effect: permit, match: {tools: ["*"]}}
"""
Does = Callable[[Work], Awaitable[RawOutput]]


@dataclass
class Till:
    """A runner that counts what it did, by the forwarded key."""

    does: Does | None = None
    keys: list[str | None] = field(default_factory=list)

    async def run(self, work: Work) -> RawOutput:
        self.keys.append(work.key)
        if self.does is not None:
            return await self.does(work)
        return RawOutput(f"paid {len(self.keys)}", {"n": 1.0})


def lab_with(till: Till, spec: str = SPEC, policy: str = PERMIT, **more: Any) -> Lab:
    """A lab whose http tools are run by `till`."""
    lab = Lab.of({"pay.yaml": spec}, {"lab.yaml": policy})
    lab.trial.authority.principals["eve"] = Principal("eve", "default", scopes=frozenset({"agent"}), token_id="k_eve")
    lab.gate = replace(lab.gate, runners={HttpBackend: till}, **more)
    return lab


async def pay(lab: Lab, key: str | None = "k", amount: int = 5, **more: Any) -> Outcome:
    return await lab.call("pay", {"amount": amount}, idempotency_key=key, **more)


def code(outcome: Outcome) -> str | None:
    return outcome.problem.code if outcome.problem else None


def test_a_repeat_gets_what_is_on_record_of_the_first_call() -> None:
    """One effect; the same answer to the letter; its own id and its own record, which names the first call."""

    async def twice() -> tuple[Lab, Till, Outcome, Outcome]:
        lab = lab_with(till := Till())
        return lab, till, await pay(lab), await pay(lab)

    lab, till, first, second = asyncio.run(twice())
    assert len(till.keys) == 1
    assert (first.repeat, second.repeat) == (False, True)
    assert (second.text, json.dumps(second.structured)) == (first.text, '{"n": 1.0}')
    assert (second.status, second.verdict, second.usage) == (first.status, first.verdict, first.usage)
    assert second.call_id != first.call_id
    lines = of_calls(lab.trial.ledger.lines)
    assert [line.type for line in lines] == ["call.intent", "call.outcome", "call.repeated"]
    assert (lines[2].fields["call_id"], lines[2].fields["repeat_of"]) == (second.call_id, first.call_id)
    assert (lines[2].content, second.position) == (None, Position("memory", len(lab.trial.ledger.lines) - 1))


def test_a_repeat_is_answered_where_policy_would_refuse_it_by_now() -> None:
    """The first call used up what its rule allows; its repeat is answered all the same, another call is not."""

    async def thrice() -> list[Outcome]:
        lab = lab_with(Till(), policy=POLICY)
        return [await pay(lab), await pay(lab), await pay(lab, "other")]

    first, second, third = asyncio.run(thrice())
    assert [code(each) for each in (first, second, third)] == [None, None, "forbidden"]
    assert (second.text, second.repeat) == (first.text, True)


def test_a_key_is_its_callers_own() -> None:
    """Somebody else's call under the same key is another call, and the backend is told another key."""

    async def both() -> tuple[Till, Outcome, Outcome]:
        lab = lab_with(till := Till())
        return till, await pay(lab), await pay(lab, by="eve")

    till, first, second = asyncio.run(both())
    assert (first.text, second.text, second.repeat) == ("paid 1", "paid 2", False)
    assert len(set(till.keys)) == 2
    assert None not in till.keys


def test_a_key_with_other_arguments_is_refused() -> None:
    """Defaults that are spelled out are no other arguments."""

    async def thrice() -> list[Outcome]:
        lab = lab_with(Till())
        same = await lab.call("pay", {"to": "bob", "amount": 5}, idempotency_key="k")
        return [same, await pay(lab), await pay(lab, amount=6)]

    assert [code(each) for each in asyncio.run(thrice())] == [None, None, "key_reused"]


def test_one_key_raced_is_one_effect() -> None:
    """Fifty at once: one runs, the others are told that it is under way, or what came of it."""

    async def race() -> tuple[Till, list[Outcome]]:
        async def slowly(_: Work) -> RawOutput:
            await asyncio.sleep(0.01)
            return RawOutput("paid")

        lab = lab_with(till := Till(slowly))
        return till, await asyncio.gather(*(pay(lab) for _ in range(50)))

    till, outcomes = asyncio.run(race())
    assert len(till.keys) == 1
    assert {code(each) for each in outcomes} <= {None, "in_progress"}
    waiting = [each.problem for each in outcomes if each.problem is not None]
    assert all(each.retry_after_ms for each in waiting)


def test_a_claim_that_is_lost_at_the_last_moment_is_looked_up_again() -> None:
    """Another call takes the key between the look and the taking: its outcome is the answer."""

    class Blind(MemoryCounters):
        """Sees no claim at the first look."""

        looked = 0

        async def find(self, key: str) -> Claimed | None:
            self.looked += 1
            return None if self.looked in (1, 2) else await super().find(key)

    async def both() -> tuple[Till, Outcome]:
        counters = Blind()
        lab = lab_with(till := Till(), counters=counters, claims=counters)
        await pay(lab)
        return till, await pay(lab)

    till, second = asyncio.run(both())
    assert (len(till.keys), second.repeat, second.text) == (1, True, "paid 1")


async def _fails(_: Work) -> RawOutput:
    raise Failure(problem("upstream_error", "The backend broke off."))


def test_a_failed_call_is_not_made_again() -> None:
    """Its failure is the recorded outcome, unless the tool is declared idempotent: then the key is free again."""

    async def twice(spec: str) -> tuple[Till, list[Outcome]]:
        lab = lab_with(till := Till(_fails), spec)
        return till, [await pay(lab), await pay(lab)]

    till, outcomes = asyncio.run(twice(SPEC))
    assert len(till.keys) == 1
    assert [(code(each), each.repeat) for each in outcomes] == [("upstream_error", False), ("upstream_error", True)]
    till, outcomes = asyncio.run(twice(SPEC + "idempotent: true\n"))
    assert len(till.keys) == 2
    assert till.keys[0] == till.keys[1]
    assert [each.repeat for each in outcomes] == [False, False]


def test_a_call_that_was_not_sent_leaves_its_key_free() -> None:
    """What was refused may be called again under the same key, and then runs."""

    async def twice() -> list[Outcome]:
        async def refuses(_: Work) -> RawOutput:
            raise refuse("upstream_unreachable", "Nobody answers.")

        lab = lab_with(till := Till(refuses))
        first = await pay(lab)
        till.does = None
        return [first, await pay(lab), await pay(lab)]

    assert [(code(each), each.repeat) for each in asyncio.run(twice())] == [
        ("upstream_unreachable", False),
        (None, False),
        (None, True),
    ]


class Torn(MemoryLedger):
    """Cannot write outcomes."""

    async def append(self, line: Line) -> Position:
        if line.type == "call.outcome":
            raise refuse("audit_unavailable", "The audit log cannot be written.")
        return await super().append(line)


def test_a_call_whose_outcome_is_not_on_record_is_in_doubt() -> None:
    """The repeat does not run, and is told to check; whoever asks for an idempotent tool runs it again."""

    async def twice(spec: str) -> tuple[Till, Outcome]:
        lab = lab_with(till := Till(), spec, ledger=Torn())
        await pay(lab)
        return till, await pay(lab)

    till, second = asyncio.run(twice(SPEC))
    assert (len(till.keys), code(second)) == (1, "outcome_unknown")
    assert second.problem is not None
    assert "check" in str(second.problem.advice)
    till, second = asyncio.run(twice(SPEC + "idempotent: true\n"))
    assert len(till.keys) == 2


def test_a_call_that_nobody_ended_is_in_doubt_after_its_time() -> None:
    """Until then it is under way, for all one knows."""

    class Deaf(MemoryCounters):
        """Is told of no end."""

        async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
            raise refuse("overloaded", "The store does not answer.")

        async def doubt(self, claim: Claim, call_id: str) -> None:
            raise refuse("overloaded", "The store does not answer.")

    async def later() -> list[Outcome]:
        counters = Deaf()
        lab = lab_with(Till(), counters=counters, claims=counters)
        found = [await pay(lab), await pay(lab)]
        lab.trial.clock.at += 36
        return [*found, await pay(lab)]

    first, *others = asyncio.run(later())
    assert first.text == "paid 1"
    assert [code(each) for each in others] == ["in_progress", "outcome_unknown"]


def test_an_outcome_that_a_store_is_told_late_is_not_called_in_doubt() -> None:
    """The store was away for a moment when the call ended: what it hears then is how it ended, and so do repeats."""

    class Late(MemoryCounters):
        """Takes note of ends, and says that it could not."""

        async def close(self, claim: Claim, call_id: str, kept: bytes, session: str, tenant: str) -> None:
            await super().close(claim, call_id, kept, session, tenant)
            raise refuse("overloaded", "The store does not answer.")

    async def both() -> list[Outcome]:
        counters = Late()
        lab = lab_with(Till(), counters=counters, claims=counters)
        return [await pay(lab), await pay(lab)]

    first, second = asyncio.run(both())
    assert (first.text, second.text, second.repeat) == ("paid 1", "paid 1", True)


def test_the_repeat_of_a_cancelled_call_gets_what_is_on_record() -> None:
    """The client went away while it ran: nobody runs it again."""

    async def away() -> tuple[Till, Outcome]:
        started = asyncio.Event()

        async def hangs(_: Work) -> RawOutput:
            started.set()
            return await asyncio.get_running_loop().create_future()

        lab = lab_with(till := Till(hangs))
        task = asyncio.ensure_future(pay(lab))
        await started.wait()
        task.cancel()
        await asyncio.wait({task})
        return till, await pay(lab)

    till, second = asyncio.run(away())
    assert (len(till.keys), second.repeat, code(second)) == (1, True, "cancelled")


@pytest.mark.parametrize("key", ["", "x" * 256, "schl\u00fcssel", "a\nb"])
def test_a_key_has_a_form(key: str) -> None:
    """1 to 255 printable ASCII characters; what is none is refused, and nothing runs."""
    lab = lab_with(till := Till())
    assert (code(asyncio.run(pay(lab, key))), till.keys) == ("malformed", [])


def test_the_longest_key_is_taken() -> None:
    """255 characters, spaces and quotes among them."""
    lab = lab_with(till := Till())
    assert code(asyncio.run(pay(lab, ' "' + "x" * 253))) is None
    assert len(till.keys) == 1


def test_nothing_is_repeated_in_a_closed_session() -> None:
    """Who may not call any more is not told what came of earlier calls."""

    async def closed() -> Outcome:
        lab = lab_with(Till())
        await pay(lab, session="mine")
        caller = await lab.gate.authenticate("dev", "mine")
        await lab.gate.end_session(caller.session, None)
        return await pay(lab, session="mine")

    assert code(asyncio.run(closed())) == "session_closed"


def test_a_session_that_is_told_of_a_result_has_its_labels() -> None:
    """Labels are not shed by asking for the same result in another session."""

    async def both() -> tuple[frozenset[str], Outcome]:
        lab = lab_with(Till(), SPEC.replace("effects: [write]", "effects: [write]\nlabels: {output: [pii]}"))
        await pay(lab, session="one")
        second = await pay(lab, session="two")
        return (await lab.gate.authenticate("dev", "two")).session.labels, second

    labels, second = asyncio.run(both())
    assert second.repeat
    assert labels == second.verdict.labels >= {"pii"}


DERIVED = SPEC + "idempotency: {derive: 10m}\n"


def test_the_same_call_again_is_that_call_where_the_tool_says_so() -> None:
    """Without a key: in one session, for some time; other arguments and another session are other calls."""

    async def several() -> tuple[Till, list[bool]]:
        lab = lab_with(till := Till(), DERIVED)
        counters = MemoryCounters(steady=lab.trial.clock.steady)
        lab.gate = replace(lab.gate, counters=counters, claims=counters)
        told = [await pay(lab, None), await pay(lab, None), await pay(lab, None, 6)]
        told.append(await pay(lab, None, session="other"))
        lab.trial.clock.at += 601
        told.append(await pay(lab, None))
        return till, [each.repeat for each in told]

    till, repeats = asyncio.run(several())
    assert repeats == [False, True, False, False, False]
    assert len(set(till.keys)) == len(till.keys) == 4


def test_a_call_without_a_key_has_one_for_its_backend_where_the_spec_names_a_header() -> None:
    """Each call another; under the client's own key always the same; and no header where none is named."""

    async def headers(spec: str, *keys: str | None) -> list[str | None]:
        lab = Lab.of({"pay.yaml": spec}, {"lab.yaml": PERMIT})
        for key in keys:
            await pay(lab, key)
        return [dict(ask.headers).get("Idempotency-Key") for ask in lab.trial.net.asked]

    named = SPEC + "idempotency: {header: Idempotency-Key}\n"
    first, second = asyncio.run(headers(named, None, None))
    assert None not in (first, second)
    assert first != second
    (third,) = asyncio.run(headers(named, "k", "k"))
    assert third not in (None, "k", first)
    assert asyncio.run(headers(SPEC, None, "k")) == [None, None]
