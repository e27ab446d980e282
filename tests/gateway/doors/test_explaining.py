"""`POST /v1/policy:explain`: an AuthZEN evaluation, for operators, that does nothing."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import jsonschema
import pytest

from gateway.model import Principal
from tests.kit import ECHO, PERMIT, Lab, Reply

ROUTE = "/v1/policy:explain"
OPERATOR = Principal("ops", "default", scopes=frozenset({"operator"}), token_id="k_ops")
COUNTED = """
apiVersion: toolgate/v1
kind: Policy
id: counted
state:
  said_1h: {count: {tools: [echo]}, within: 1h}
rules:
- {id: echo-twice, effect: permit, match: {tools: [echo], agents: [dev]}, when: [state.said_1h < 2]}
- {id: labelled, effect: forbid, match: {tools: [echo]}, when: ['"pii" in session.labels']}
"""


def lab(policy: str = PERMIT) -> Lab:
    """One echo tool, an operator and the agent dev."""
    made = Lab.of({"echo.yaml": ECHO}, {"lab.yaml": policy})
    made.trial.authority.principals["ops"] = OPERATOR
    return made


def asking(text: Any = "7", agent: str = "dev", tool: str = "echo", **more: Any) -> dict[str, Any]:
    """The body of an evaluation; `more` replaces members of it."""
    body = {
        "subject": {"type": "agent", "id": agent},
        "action": {"name": "call"},
        "resource": {"type": "tool", "id": tool, "properties": {"arguments": {"text": text}}},
    }
    return {**body, **more}


def ask(made: Lab, body: Any, by: str | None = "ops") -> Reply:
    """One evaluation."""
    return asyncio.run(made.http("POST", ROUTE, json.dumps(body).encode(), by))


def test_an_evaluation_answers_decision_and_why() -> None:
    """AuthZEN: `decision` is a boolean and `context` says why, for people too; nothing is on record."""
    made = lab()
    permitted, refused = ask(made, asking()).json, ask(made, asking("war")).json
    assert permitted["decision"] is True
    assert permitted["context"]["lines"][0] == "permitted: echo-ok (lab.yaml:6) permits echo for agent dev"
    assert refused["decision"] is False
    assert refused["context"]["code"] == "forbidden"
    assert refused["context"]["lines"][0] == (
        "refused: no-war (lab.yaml:7) forbids echo for agent dev, "
        'because args.text == "war" (args.text is "war"). It says: We do not talk of war.'
    )
    assert made.trial.ledger.lines == []


def test_a_hidden_tool_and_arguments_that_do_not_fit_are_explained() -> None:
    """An operator asks why an agent sees no tool, or why a call of it never came before policy."""
    hidden = ask(lab(), asking(agent="bot")).json
    assert (hidden["decision"], hidden["context"]["effect"], hidden["context"]["code"]) == (False, None, "unknown_tool")
    assert hidden["context"]["lines"][0] == (
        "refused: echo is not visible to agent bot: echo-ok (lab.yaml:6) is for agent dev only; "
        'principal.agent is "bot"'
    )
    misfit = ask(lab(), asking(7)).json
    assert (misfit["decision"], misfit["context"]["code"]) == (False, "invalid_arguments")
    assert misfit["context"]["fix"][0]["pointer"] == "/text"
    nowhere = ask(lab(), asking(tool="ecko")).json
    assert "there is no tool of that name: did you mean 'echo'?" in nowhere["context"]["lines"][0]


def test_it_reserves_nothing_and_reads_the_live_past() -> None:
    """Asked a hundred times nothing is used up; what calls have used is seen."""
    made = lab(COUNTED)
    reads = [ask(made, asking()).json["context"]["reads"]["state.said_1h"]["value"] for _ in range(3)]
    assert reads == [0, 0, 0]

    async def calls() -> None:
        for _ in range(2):
            assert (await made.call("echo", {"text": "7"})).status == "done"

    asyncio.run(calls())
    used = ask(made, asking()).json
    assert (used["decision"], used["context"]["reads"]["state.said_1h"]["value"]) == (False, 2)
    assert used["context"]["nearest"]["rule"] == "echo-twice"
    other = asking(context={"session": {"id": "another"}})
    assert ask(made, other).json["context"]["reads"]["state.said_1h"]["value"] == 0


def test_what_the_request_gives_of_the_session_stands_instead() -> None:
    """So that an operator can ask what would be, without making it so."""
    labelled = asking(context={"session": {"labels": ["pii"]}})
    made = lab(COUNTED)
    assert ask(made, labelled).json["context"]["rules"] == [{"rule": "labelled", "source": "lab.yaml:9"}]
    assert ask(made, asking()).json["decision"] is True


def test_only_an_operator_of_the_tenant_is_answered() -> None:
    """Values and other rules are not for agents; no key at all is 401 whatever the body is."""
    assert (ask(lab(), asking(), "dev").status, ask(lab(), asking(), "dev").json["code"]) == (403, "insufficient_scope")
    assert ask(lab(), "nonsense", None).status == 401
    foreign = asking(subject={"type": "agent", "id": "dev", "properties": {"tenant": "other"}})
    assert (ask(lab(), foreign).status, ask(lab(), foreign).json["code"]) == (403, "insufficient_scope")
    own = asking(subject={"type": "agent", "id": "dev", "properties": {"tenant": "default", "user": "ada"}})
    assert ask(lab(), own).json["context"]["call"]["user"] == "ada"


FOREIGN = """
apiVersion: toolgate/v1
kind: Policy
id: acme
tenant: acme
rules:
- {id: acme-rule, effect: permit, match: {tools: ['*'], agents: [acme-agent]}}
"""


def test_nothing_is_said_of_what_other_tenants_have() -> None:
    """Neither their tools, nor the rules of their parts, nor rules for them in parts of all."""
    theirs = ECHO.replace("name: echo", "name: acme_books\ntenant: acme")
    policy = PERMIT + "- {id: acme-too, effect: permit, match: {tools: ['*'], tenants: ['ac*', other]}}\n"
    made = Lab.of({"echo.yaml": ECHO, "books.yaml": theirs}, {"lab.yaml": policy, "acme.yaml": FOREIGN})
    made.trial.authority.principals["ops"] = OPERATOR
    for body in (asking(agent="nobody"), asking("secret"), asking(tool="acme_books"), asking(tool="acme_book")):
        reply = ask(made, body)
        assert reply.json["decision"] is False
        said = reply.body.decode().replace(body["resource"]["id"], "")
        assert "acme" not in said
    assert "the nearest, echo-ok" in ask(made, asking("secret")).json["context"]["lines"][0]


BAD: dict[str, Any] = {
    "another key": {**asking(), "verb": "call"},
    "another action": {**asking(), "action": {"name": "read"}},
    "another resource": {**asking(), "resource": {"type": "file", "id": "x"}},
    "no subject": {"action": {"name": "call"}, "resource": {"id": "echo"}},
    "a number for a name": {**asking(), "subject": {"type": "agent", "id": 7}},
    "a list": [],
}


@pytest.mark.parametrize("body", BAD.values(), ids=BAD.keys())
def test_a_body_of_another_shape_is_malformed(body: Any) -> None:
    """Closed to unknown keys, and said where."""
    reply = ask(lab(), body)
    assert (reply.status, reply.json["code"]) == (400, "malformed")
    assert "does not fit this route" in reply.json["detail"]


def test_a_body_is_read_as_strictly_as_that_of_a_call() -> None:
    """Duplicate keys, another content type and more than a call may have are refused."""
    made = lab()
    twice = b'{"subject": {"id": "dev"}, "subject": {"id": "dev"}}'
    assert asyncio.run(made.http("POST", ROUTE, twice, "ops")).json["code"] == "malformed"
    text = asyncio.run(made.http("POST", ROUTE, b"{}", "ops", **{"Content-Type": "text/plain"}))
    assert text.status == 415
    assert asyncio.run(made.http("POST", ROUTE, b" " * (1 << 20) + b"{}", "ops")).status == 413


def test_an_operators_openapi_page_has_the_route() -> None:
    """With the shape of the request, every part of it found; an agent's page does not speak of it."""
    made = lab()
    page = asyncio.run(made.http("GET", "/v1/openapi.json", by="ops")).json
    operation = page["paths"][ROUTE]["post"]
    body = operation["requestBody"]["content"]["application/json"]["schema"]
    schema = {**body, "components": page["components"]}
    jsonschema.Draft202012Validator.check_schema(schema)
    checker = jsonschema.Draft202012Validator(schema)
    assert checker.is_valid(asking())
    assert [name for name, bad in BAD.items() if checker.is_valid(bad)] == []
    assert ROUTE not in asyncio.run(made.http("GET", "/v1/openapi.json")).json["paths"]
