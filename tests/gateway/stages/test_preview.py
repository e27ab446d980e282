"""What people are shown before they say yes: looked at by a tool of its own, and bound to the yes."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import orjson
import pytest

from gateway.model import Outcome, Principal, Refusal, Request
from gateway.pipeline import Gate
from gateway.runners.http import HttpRunner
from gateway.runners.message import Answer, Ask
from gateway.stages.approve import PREVIEWED
from gateway.tool import HttpBackend
from tests.kit import Lab

WRITE = """
apiVersion: toolgate/v1
kind: Tool
name: rename
version: 1.0.0
description: Renames a page.
input_schema: {type: object, properties: {page: {type: string}, to: {type: string}}, required: [page, to]}
effects: [write]
preview: look
runner:
  http: {method: PUT, url: "https://pages.example.com/{page}", json: {title: "{to}"}}
"""
LOOK = """
apiVersion: toolgate/v1
kind: Tool
name: look
version: 1.0.0
description: Shows a page.
input_schema: {type: object, properties: {page: {type: string}}, required: [page]}
effects: [read]
runner:
  http: {method: GET, url: "https://pages.example.com/{page}"}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: pages
rules:
- {id: rename, effect: permit, match: {tools: [rename]}, with: {approval: {by: ["group:operators"]}}}
- {id: look, effect: permit, match: {tools: [look]}}
"""
ANN = Principal("desk", "default", "ann", scopes=frozenset({"operator"}), token_id="k_ann")
ARGUMENTS = {"page": "home", "to": "House"}


class Pages:
    """A backend with one page: what it says, and by which tag."""

    def __init__(self, etag: str | None) -> None:
        self.etag, self.says, self.status = etag, "the old words", 200
        self.asked: list[Ask] = []

    async def request(self, ask: Ask, follow: int = 0) -> Answer:
        """The page, whatever is done to it."""
        self.asked.append(ask)
        headers = {"content-type": "application/json"} | ({"etag": self.etag} if self.etag else {})
        return Answer(self.status, headers, orjson.dumps({"says": self.says}), "application/json")

    def written(self) -> list[dict[str, str]]:
        """The headers of every change that was sent."""
        return [dict(ask.headers) for ask in self.asked if ask.method == "PUT"]


def gate_of(pages: Pages, policy: str = POLICY) -> Gate:
    """A gateway before the pages."""
    lab = Lab.of({"rename.yaml": WRITE, "look.yaml": LOOK}, {"pages.yaml": policy})
    return replace(lab.gate, runners={HttpBackend: HttpRunner(pages)})


async def rename(gate: Gate) -> Outcome:
    """The call that is asked about."""
    return await gate.handle(Request(gate.new_call_id(), "rename", ARGUMENTS, "dev"))


async def approval_of(outcome: Outcome) -> str:
    """What it waits for."""
    assert outcome.status == "parked"
    assert outcome.problem is not None
    assert outcome.problem.approval is not None
    return outcome.problem.approval


def test_people_are_shown_what_is_there() -> None:
    """The preview is a call of its own with those of the arguments that it takes, on record as made for the other."""

    async def run() -> None:
        pages = Pages('"v1"')
        gate = gate_of(pages)
        first = await rename(gate)
        parked = await gate.approval_of(ANN, await approval_of(first))
        assert parked.preview is not None
        assert (parked.preview.etag, "the old words" in parked.preview.text) == ('"v1"', True)
        assert [(ask.method, ask.url.path) for ask in pages.asked] == [("GET", "/home")]
        lines = [line.fields for line in gate.ledger.lines if line.type == "call.intent"]  # type: ignore[attr-defined]  # a lab's ledger is in memory
        assert [(line["tool"]["name"], line["parent_call_id"]) for line in lines] == [("look", first.call_id)]
        assert await approval_of(await rename(gate)) == parked.id
        assert len(pages.asked) == 1

    asyncio.run(run())


def test_a_long_preview_says_how_much_of_it_is_not_shown() -> None:
    """Nobody takes the beginning for the whole."""

    async def run() -> None:
        pages = Pages('"v1"')
        gate = gate_of(pages)
        pages.says = "x" * (PREVIEWED + 500)
        parked = await gate.approval_of(ANN, await approval_of(await rename(gate)))
        assert parked.preview is not None
        text, _, more = parked.preview.text.rpartition("\n")
        assert (len(text), more.startswith("… (5"), more.endswith(" more characters)")) == (PREVIEWED, True, True)

    asyncio.run(run())


@pytest.mark.parametrize(("etag", "sent"), [('"v1"', '"v1"'), ('W/"v1"', None), (None, None)])
def test_a_yes_goes_with_what_was_shown(etag: str | None, sent: str | None) -> None:
    """It is looked at again, unchanged; a strong tag is sent along, so that nothing else is changed after that."""

    async def run() -> None:
        pages = Pages(etag)
        gate = gate_of(pages)
        await gate.answer(ANN, await approval_of(await rename(gate)), True)
        assert (await rename(gate)).status == "done"
        assert [each.get("if-match") for each in pages.written()] == [sent]

    asyncio.run(run())


@pytest.mark.parametrize("etag", ['"v1"', None])
def test_a_yes_to_what_has_changed_is_none(etag: str | None) -> None:
    """Another tag, or without tags another result: nothing is written, and people are asked about what is there now."""

    async def run() -> None:
        pages = Pages(etag)
        gate = gate_of(pages)
        first = await approval_of(await rename(gate))
        await gate.answer(ANN, first, True)
        pages.etag, pages.says = etag and '"v2"', "the new words"
        second = await gate.approval_of(ANN, await approval_of(await rename(gate)))
        assert second.id != first
        assert second.preview is not None
        assert "the new words" in second.preview.text
        pages.etag, pages.says = etag, "the old words"
        assert await approval_of(await rename(gate)) == second.id
        assert pages.written() == []

    asyncio.run(run())


@pytest.mark.parametrize("what", ["fails", "is not permitted"])
def test_nobody_is_asked_about_what_cannot_be_shown(what: str) -> None:
    """The call is refused with the code that the preview ended with, and nobody is asked."""

    async def run() -> None:
        pages = Pages('"v1"')
        gate = gate_of(
            pages, POLICY if what == "fails" else POLICY.replace("tools: [look]", "tools: [look], agents: [x]")
        )
        pages.status = 500
        outcome = await rename(gate)
        assert outcome.problem is not None
        code = "upstream_error" if what == "fails" else "unknown_tool"
        assert (outcome.status, outcome.problem.code) == ("refused", "upstream_unreachable")
        assert f"({code})" in outcome.problem.detail
        assert await gate.approvals_of(ANN) == []

    asyncio.run(run())


def test_a_preview_that_fails_later_leaves_the_yes() -> None:
    """A granted call whose preview cannot be had is refused, and goes on once it can."""

    async def run() -> None:
        pages = Pages('"v1"')
        gate = gate_of(pages)
        await gate.answer(ANN, await approval_of(await rename(gate)), True)
        pages.status = 500
        assert (await rename(gate)).status == "refused"
        pages.status = 200
        assert (await rename(gate)).status == "done"

    asyncio.run(run())


def test_only_those_who_may_see_it() -> None:
    """An agent that is not the caller finds no such approval."""

    async def run() -> None:
        gate = gate_of(Pages('"v1"'))
        asked = await approval_of(await rename(gate))
        other = Principal("other", "default", scopes=frozenset({"agent"}))
        with pytest.raises(Refusal) as caught:
            await gate.approval_of(other, asked)
        assert caught.value.problem.code == "not_found"

    asyncio.run(run())
