"""What a yes is bound to, as one digest: the caller, the tool, its credentials, the arguments and what is asked."""

from __future__ import annotations

import asyncio
from dataclasses import replace

from gateway.model import Arguments, Call, Principal
from gateway.obligations import Approval
from gateway.stages.approve import binding_of
from tests.gateway.stages.test_approve import ANN, POLICY, lab_of, parked
from tests.kit import ECHO, Lab

SECRET = """secrets:
- {name: k, from: "SOURCE", hosts: [echo.example.com], header: "X-Key: {}"}
runner:"""


def test_a_yes_is_for_the_credentials_of_whoever_asked() -> None:
    """Another source, and for credentials of the session or tenant another of those, make another call of it."""

    async def run() -> None:
        seen = set()
        for source in ("env:KEY", "store:key", "oauth:hub"):
            lab = Lab.of({"echo.yaml": ECHO.replace("runner:", SECRET.replace("SOURCE", source))}, {"p.yaml": POLICY})
            (tool,) = lab.gate.catalogue.all()
            needs = (Approval("say", ("user:ann",), 60.0),)
            call = await seen_call(lab)
            same = replace(call, tool=replace(tool, digest="sha256:same"))
            seen.add(binding_of(same, needs))
            moved = replace(call.caller, session=replace(call.caller.session, uid="u_other"))
            assert binding_of(replace(same, caller=moved), needs) not in seen
            assert binding_of(replace(same, tool=replace(same.tool, secrets=())), needs) not in seen
        assert len(seen) == 3

    asyncio.run(run())


class Connected:
    """Which account a person has connected at a provider."""

    def __init__(self, ids: dict[tuple[str | None, str], str]) -> None:
        self.ids = ids

    def account(self, principal: Principal, provider: str) -> str:
        return self.ids.get((principal.user, provider), "")


def test_a_yes_is_for_the_account_that_is_connected() -> None:
    """Connected anew, or not any more, at that provider: another call; elsewhere, or of somebody else, no matter."""

    async def run() -> None:
        spec = ECHO.replace("runner:", SECRET.replace("SOURCE", "oauth:hub"))
        lab = Lab.of({"echo.yaml": spec}, {"p.yaml": POLICY})
        lab.trial.authority.principals["dev"] = replace(lab.trial.authority.principals["dev"], user="bob")
        lab.gate = replace(lab.gate, accounts=Connected({("bob", "hub"): "1"}))
        first = await parked(lab)
        lab.gate = replace(lab.gate, accounts=Connected({("bob", "hub"): "1", ("bob", "x"): "2", ("eve", "hub"): "3"}))
        assert await parked(lab) == first
        await lab.gate.answer(ANN, first, True)
        for other in ({("bob", "hub"): "4"}, {}):
            lab.gate = replace(lab.gate, accounts=Connected(other))
            assert await parked(lab) != first

    asyncio.run(run())


async def seen_call(lab: Lab) -> Call:
    """A call as the stage gets it."""
    caller = await lab.gate.authenticate("dev", None)
    (tool,) = lab.gate.catalogue.all()
    return Call("c_1", caller, tool, Arguments({"text": "hi", "loud": False}), 0.0, 0)


def test_a_binding_is_of_everything_that_people_see() -> None:
    """The rules and whom they ask are part of it, whatever order they come in; how long they wait is not."""

    async def run() -> None:
        lab = lab_of()
        call, one, two = await seen_call(lab), Approval("a", ("user:x",), 60.0), Approval("b", ("user:y",), 60.0)
        whole = binding_of(call, (one, two))
        assert binding_of(call, (two, one)) == whole
        assert binding_of(call, (replace(one, ttl=5.0), two)) == whole
        changed = [(one,), (replace(one, rule="c"), two), (replace(one, by=("user:z",)), two)]
        assert whole not in {binding_of(call, needs) for needs in changed}

    asyncio.run(run())
