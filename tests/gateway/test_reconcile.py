"""An outcome nobody knows is settled by asking the backend: a call of its own, whose plain yes or no counts."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from gateway.model import Failure, Outcome, RawOutput
from gateway.problems import problem
from gateway.specs.load import load_specs
from gateway.specs.yaml import SpecErrors
from gateway.tool import HttpBackend, Json
from gateway.work import Calls, Work
from tests.gateway.coder import CODER, playing, told
from tests.gateway.test_idempotency import PERMIT, SPEC, code
from tests.kit import Lab, of_calls

PERMIT_ALL = """
- {id: any, effect: permit, match: {tools: ["*"]}}
"""
SPECS = {
    "pay.yaml": SPEC + "idempotency: {reconcile: find}\n",
    "find.yaml": """
apiVersion: toolgate/v1
kind: Tool
name: find
version: 1.0.0
description: Finds a payment.
input_schema:
  type: object
  properties:
    amount: {type: integer}
    idempotency_key: {type: string}
effects: [read]
runner:
  http: {method: GET, url: "https://pay.example.com/find", query: {key: "{idempotency_key}"}}
""",
}


class Bank:
    """Breaks off when asked to pay the first time, and answers `found` when asked what became of it."""

    def __init__(self, found: Json) -> None:
        self.found, self.calls, self.asked = found, [], []

    calls: list[str | None]
    asked: list[dict[str, Json]]

    async def run(self, work: Work) -> RawOutput:
        if work.tool.name == "find":
            self.asked.append(dict(work.arguments))
            return RawOutput("told", self.found)
        self.calls.append(work.key)
        if len(self.calls) == 1:
            raise Failure(problem("timeout", "The tool did not finish in time."))
        return RawOutput("paid")


def twice(found: Json, specs: dict[str, str] = SPECS, policy: str = PERMIT) -> tuple[Lab, Bank, list[Outcome]]:
    """A call that times out, and its repeat, and one more."""
    bank = Bank(found)
    lab = Lab.of(specs, {"lab.yaml": policy})
    lab.gate = replace(lab.gate, runners={HttpBackend: bank})

    async def both() -> list[Outcome]:
        return [await lab.call("pay", {"amount": 5}, idempotency_key="k") for _ in range(3)]

    return lab, bank, asyncio.run(both())


def test_what_was_done_is_told_and_not_done_again() -> None:
    """The backend knows of the call: its result is the outcome from then on, and it is asked once."""
    lab, bank, (first, second, third) = twice({"found": True, "result": {"id": 7}})
    assert code(first) == "timeout"
    assert [(each.status, each.structured, each.repeat) for each in (second, third)] == [("done", {"id": 7}, True)] * 2
    assert (len(bank.calls), len(bank.asked)) == (1, 1)
    assert bank.asked[0] == {"amount": 5, "idempotency_key": bank.calls[0]}
    assert second.verdict.labels == {"untrusted"}
    (line,) = (line for line in lab.trial.ledger.lines if line.type == "call.reconciled")
    assert (line.fields["call_id"], line.fields["as"]) == (first.call_id, "done")


def test_what_was_not_done_is_done_now() -> None:
    """The backend knows of no such call: it runs, under the same forwarded key, and the repeat of that is told."""
    _, bank, (_, second, third) = twice({"found": False})
    assert [(each.text, each.repeat) for each in (second, third)] == [("paid", False), ("paid", True)]
    assert len(bank.calls) == 2
    assert bank.calls[0] == bank.calls[1]


@pytest.mark.parametrize("found", [None, {}, {"found": "yes"}, {"found": 1}, {"found": None}])
def test_anything_but_a_plain_answer_leaves_it_unknown(found: Json) -> None:
    """Nothing runs on a maybe; each repeat asks anew."""
    _, bank, (_, second, third) = twice(found)
    assert [code(second), code(third)] == ["outcome_unknown"] * 2
    assert (len(bank.calls), len(bank.asked)) == (1, 2)


def test_the_question_is_a_call_of_its_own() -> None:
    """It is decided, and on record under the id of the call in doubt; where policy refuses it, nothing is known."""
    lab, _, (first, _, _) = twice({"found": True})
    asked = [line for line in of_calls(lab.trial.ledger.lines) if line.fields.get("parent_call_id") == first.call_id]
    assert [(line.type, line.fields["tool"]["name"]) for line in asked] == [  # type: ignore[index]  # as read back
        ("call.intent", "find"),
        ("call.outcome", "find"),
    ]
    _, bank, (_, second, _) = twice({"found": False}, policy=PERMIT.replace('["*"]', "[pay]"))
    assert (code(second), len(bank.calls), bank.asked) == ("outcome_unknown", 1, [])


def test_a_result_without_its_declared_form_is_not_told() -> None:
    """That it was done is said; a client that relies on the form is not given another."""
    shape = "output_schema: {type: object, properties: {id: {type: string}}, required: [id]}\n"
    specs = {**SPECS, "pay.yaml": SPECS["pay.yaml"] + shape}
    _, bank, (_, second, _) = twice({"found": True, "result": {"id": 7}}, specs)
    assert (second.status, code(second), second.structured) == ("failed", "output_invalid", None)
    assert len(bank.calls) == 1


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("effects: [read]", "effects: [read, write]"), "may change something"),
        (("effects: [read]", "effects: [read]\ncache: {ttl: 1m}"), "what was so before"),
        (("effects: [read]", "effects: [read]\nidempotency: {derive: 1m}"), "what was so before"),
        (("effects: [read]", "effects: [read]\ntenant: acme"), "for the tenant 'acme' only"),
    ],
)
def test_only_a_tool_that_changes_nothing_and_remembers_nothing_is_asked(change: tuple[str, str], words: str) -> None:
    """Checked when the files are loaded."""
    files = {name: text.replace(*change).encode() for name, text in SPECS.items()}
    with pytest.raises(SpecErrors) as caught:
        load_specs(files, sandboxes={})
    assert [words in str(finding) for finding in caught.value.findings] == [True]


def test_a_session_that_is_told_has_the_labels_of_the_tool_that_was_called() -> None:
    """Whatever the tool that was asked declares: the result is told as that of the tool that was called."""
    pay = SPECS["pay.yaml"].replace("effects: [write]", "effects: [write]\nlabels: {output: [pii]}")
    _, _, (_, second, third) = twice({"found": True, "result": {"iban": "x"}}, {**SPECS, "pay.yaml": pay})
    assert second.verdict.labels == third.verdict.labels == {"untrusted", "pii"}


def test_the_question_about_a_call_of_code_is_within_that_code_too() -> None:
    """It has no more time than the code has, and is judged with what the code was given."""
    bank, asked = Bank({"found": True}), list[Work]()

    class Watched(Bank):
        async def run(self, work: Work) -> RawOutput:
            asked.append(work)
            return await bank.run(work)

    async def play(work: Work, calls: Calls) -> object:
        asked.append(work)
        return [await told(calls, "pay", b'{"amount": 5}') for _ in range(2)]

    derived = SPECS["pay.yaml"].replace("{reconcile: find}", "{reconcile: find, derive: 10m}")
    coder = CODER.replace("tools: [look", "tools: [pay, look").replace("timeout: 20s", "timeout: 2s")
    lab = playing(play, PERMIT_ALL, specs={**SPECS, "pay.yaml": derived, "coder.yaml": coder})
    lab.gate = replace(lab.gate, runners={**lab.gate.runners, HttpBackend: Watched(None)})
    outcome = asyncio.run(lab.call("coder", {"code": "played"}))
    timed_out, known = outcome.structured["result"]  # type: ignore[index]  # as played
    assert ("(timeout)" in timed_out, known) == (True, "")
    code_, first, question = asked
    assert (first.tool.name, question.tool.name) == ("pay", "find")
    assert (first.depth, question.depth) == (1, 1)
    assert first.deadline == question.deadline == code_.deadline
