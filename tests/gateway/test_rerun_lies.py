"""Records copied with a lie in them: what the code does when it is run again gives it away, or cannot, and says so."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gateway.audit.query import unverified
from tests.gateway.rerunning import FILES, Place, coder, look, play, verdicts
from tests.gateway.runners.servers import Upstream, http, new_net

Lie = Callable[[dict[str, Any]], None]


def about(type_: str, tool: str, change: Lie) -> Lie:
    """A lie about records of this type, of calls of this tool."""

    def lie(told: dict[str, Any]) -> None:
        if told["type"] == type_ and told["fields"]["tool"]["name"] == tool:
            change(told)

    return lie


def put(value: Any, *path: str) -> Lie:
    """A change: this value at this place of a record."""

    def change(told: dict[str, Any]) -> None:
        *above, last = path
        for name in above:
            told = told[name]
        told[last] = value

    return change


def replaced(old: str, new: str, *path: str) -> Lie:
    """A change: in the text at this place of a record."""

    def change(told: dict[str, Any]) -> None:
        for name in path[:-1]:
            told = told[name]
        assert old in told[path[-1]]
        told[path[-1]] = told[path[-1]].replace(old, new)

    return change


def put_file(handle: str) -> Lie:
    """A change: the file that was left is another."""

    def change(told: dict[str, Any]) -> None:
        told["fields"]["artifacts"][0]["handle"] = handle
        told["content"]["artifacts"] = {handle: "left.txt"}

    return change


SHOWS = """
open("left.txt", "w").write("left")
print("one")
print("two")
result = {"a/b": [1, {"~": 2}], "now": 1}
"""
DRAWS = "import random; print('drawn', random.random())"
TICKS = "import time; print('it is', time.time())"
FAILS = "raise ValueError('no')"
ASKS = "print(call('look', what='sky'))"
LEFT = "sha256:360f84035942243c6a36537ae2f8673485e6c04455a0a85a0db19690f2541480"
LIES = {
    "another seed": (DRAWS, about("call.intent", "code", put(7, "content", "seed")), ["text at line 1, character 9: "]),
    "another clock": (TICKS, about("call.intent", "code", put(1e9, "fields", "opened_at")), ["text at line 1, char"]),
    "another program": (
        SHOWS,
        about("call.intent", "code", replaced("two", "tw0", "content", "arguments", "code")),
        ["text at line 2, character 3: recorded 'one\\ntwo\\n', now 'one\\ntw0\\n'", "structured at /stdout: "],
    ),
    "another text": (
        SHOWS,
        about("call.outcome", "code", replaced("one", "onE", "content", "text")),
        ["text at line 1, character 3: recorded 'onE\\ntwo\\n', now 'one\\ntwo\\n'"],
    ),
    "text that ends sooner": (
        SHOWS,
        about("call.outcome", "code", replaced("two\n", "", "content", "text")),
        ["text at line 2, character 1: recorded 'one\\n', now 'one\\ntwo\\n'"],
    ),
    "another value": (
        SHOWS,
        about("call.outcome", "code", put([1, {"~": 3}], "content", "structured", "result", "a/b")),
        ["structured at /result/a~1b/1/~0: recorded 3, now 2"],
    ),
    "a float for an integer": (
        SHOWS,
        about("call.outcome", "code", put(1.0, "content", "structured", "result", "now")),
        ["structured at /result/now: recorded 1.0, now 1"],
    ),
    "a member too many": (
        SHOWS,
        about("call.outcome", "code", put(None, "content", "structured", "result", "more")),
        ["structured at /result/more: recorded null, now nothing"],
    ),
    "another file": (
        SHOWS,
        about("call.outcome", "code", put_file(LEFT[:-1] + "1")),
        [f"file at left.txt: recorded {LEFT[:-1]}1, now {LEFT}"],
    ),
    "no file": (
        SHOWS,
        about("call.outcome", "code", put([], "fields", "artifacts")),
        [f"file at left.txt: recorded nothing, now {LEFT}"],
    ),
    "another ending": (
        FAILS,
        about("call.outcome", "code", put("sandbox_limit", "fields", "sandbox", "code")),
        ["code: recorded sandbox_limit, now tool_error"],
    ),
    "other words": (
        FAILS,
        about("call.outcome", "code", put("It failed.", "content", "detail")),
        ["detail: recorded It failed., now The code raised an error; its text is in the result."],
    ),
    "another answer": (
        ASKS,
        about("call.outcome", "look", put({"is": "red"}, "content", "structured")),
        [
            "text at line 1, character 9: recorded \"{'is': 'blue'}\\n\", now \"{'is': 'red'}\\n\"",
            "structured at /stdout",
        ],
    ),
    "other arguments of a call": (
        ASKS,
        about("call.intent", "look", put("sea", "content", "arguments", "what")),
        ["calls at call 1: recorded no such call, now look {'what': 'sky'}"],
    ),
    "a call less": (
        ASKS,
        about("call.intent", "code", put("print({'is': 'blue'})", "content", "arguments", "code")),
        ["calls: recorded 1 more: look, now not made"],
    ),
}


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Each snippet of `LIES` on record, with an upstream that is gone by now."""
    place = Place(tmp_path_factory.mktemp("once"), [coder("code", more=FILES + "    tools: [look]\n"), look(9)])

    async def scene() -> None:
        async with Upstream(http(b'{"is": "blue"}', kind="application/json")) as upstream:
            place.loaded = place.load([coder("code", more=FILES + "    tools: [look]\n"), look(upstream.port)])
            net = new_net()
            async with place.up("wasm-python") as sandboxes, place.serving(sandboxes, net) as lab:
                for code in SNIPPETS:
                    await place.call(lab, "code", code=code)
            await net.close()
        assert verdicts(await place.again("wasm-python")) == ["same"] * len(SNIPPETS)

    play(scene)
    return place


SNIPPETS = (SHOWS, DRAWS, TICKS, FAILS, ASKS)


def test_what_is_not_so_is_found(once: Place, tmp_path: Path) -> None:
    """Each lie in a copy of the records is a difference, told by its first place; the other calls stay the same."""

    async def scene() -> None:
        for number, (name, (code, lie, wanted)) in enumerate(LIES.items()):
            call_id = once.ids[SNIPPETS.index(code)]
            copy = await once.retold(tmp_path / str(number), only(call_id, lie))
            assert unverified(copy) is None
            (found,) = await once.again("wasm-python", home=copy, ids=[call_id])
            assert found.verdict == "different", (name, found)
            told = [str(difference) for difference in found.differences]
            assert len(told) >= len(wanted), (name, told)
            assert [got[: len(part)] for got, part in zip(told, wanted, strict=False)] == wanted, name

    play(scene)


def only(call_id: str, lie: Lie) -> Lie:
    """The lie, of one call and of those that its code made."""

    def told_of(told: dict[str, Any]) -> None:
        if call_id in (told["fields"]["call_id"], told["fields"].get("parent_call_id")):
            lie(told)

    return told_of


UNFIT = {
    "nobody knows how it ended": about("call.outcome", "code", put(None, "type")),
    "it ran in another guest: sha256:old, here is sha256:": about(
        "call.outcome", "code", put("sha256:old", "fields", "sandbox", "image_digest")
    ),
    "it ran in another engine: wasmtime 1, here is wasmtime ": about(
        "call.outcome", "code", put("wasmtime 1", "fields", "sandbox", "engine")
    ),
    "in what it ran is not on record": about("call.outcome", "code", lambda told: told["fields"].pop("sandbox")),
    "its record is not as this version writes it": about("call.outcome", "code", put({}, "fields", "outcome")),
    "it ended at its deadline": about("call.outcome", "code", put("timeout", "fields", "outcome", "code")),
    "it was cancelled": about("call.outcome", "code", put("cancelled", "fields", "outcome", "code")),
    "its sandbox broke down": about("call.outcome", "code", put("upstream_error", "fields", "sandbox", "code")),
    "its arguments are not on record (metadata level)": about("call.intent", "code", put(None, "content")),
    "its result is not on record": about("call.outcome", "code", put(None, "content")),
    "its tool is not here as it was": about("call.intent", "code", put("sha256:old", "fields", "tool", "digest")),
    "the arguments of a call that its code made": about("call.intent", "look", put(None, "content")),
    "what a call that its code made was answered": about("call.outcome", "look", put(None, "content")),
}


def test_what_cannot_be_run_again_says_why(once: Place, tmp_path: Path) -> None:
    """What is missing, or would not come out the same, is a reason and no difference."""

    async def scene() -> None:
        call_id = once.ids[SNIPPETS.index(ASKS)]
        for number, (reason, lie) in enumerate(UNFIT.items()):
            copy = await once.retold(tmp_path / str(number), only(call_id, lie))
            (found,) = await once.again("wasm-python", home=copy, ids=[call_id])
            assert (found.verdict, (found.reason or "")[: len(reason)]) == ("not-rerunnable", reason), found
        unheard = await once.again("wasm-python", ids=["c_unheard_of"])
        assert verdicts(unheard) == ["not-rerunnable | it is not on record"]

    play(scene)
