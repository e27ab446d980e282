"""What the calls of recorded code are answered with: what they were answered with then. Nothing is called.

A call is found by its tool, its canonical arguments after defaults, and which of several such calls it is. One that is
not on record is noted, and everything the code asks from then on is refused.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from typing import Any, cast

from gateway.model import Problem
from gateway.problems import problem
from gateway.replay.answers import Denied, Instead, Lost, Result
from gateway.rerun.past import Story, Taken, Unfit
from gateway.stages.nested import HOST_CALLS, answer, read_arguments, spent
from gateway.strictjson import canonical
from gateway.tool import Json, Labels, SandboxBackend, Tool
from gateway.work import NestedRefusal

_Key = tuple[str, bytes]


class Answers:
    """The calls of one piece of recorded code; implements `work.Calls`. `labels` say nothing here.

    `missed` is the first call that is not on record: its tool and what it was given.
    """

    labels: Labels = frozenset()

    def __init__(self, call: Taken, story: Story, tools: Mapping[str, Tool], left: int) -> None:
        """`tools` by name are those the code may call; `left` is how many calls it may still cause.

        Raises Unfit when one of the recorded answers is not there any more.
        """
        self._tools = tools
        self._left = left
        self._recorded: dict[_Key, deque[_Recorded]] = {}
        for made in story.made_by(call.id):
            recorded = _Recorded(made, story)
            self._recorded.setdefault((made.tool, canonical(recorded.arguments)), deque()).append(recorded)
        self.missed: tuple[str, Json] | None = None
        self.given = 0

    @property
    def unasked(self) -> list[str]:
        """The recorded calls that the code did not make again: their tools, in order."""
        rest = [recorded.call for queue in self._recorded.values() for recorded in queue]
        return [call.tool for call in sorted(rest, key=lambda call: call.place)]

    async def call(self, name: str, arguments: bytes) -> bytes:
        """See the port."""
        if self.missed is not None:
            raise NestedRefusal("an earlier call is not on record")
        if self._left <= 0:
            raise spent()
        sent, _ = read_arguments(arguments)
        recorded = self._find(name, sent)
        if recorded is None:
            self.missed = (name, sent)
            raise NestedRefusal("this call is not on record")
        self._left -= recorded.caused
        self.given += 1
        return recorded.answer()

    def _find(self, name: str, sent: Json) -> _Recorded | None:
        for arguments in (self._filled(name, sent), sent):
            queue = self._recorded.get((name, canonical(arguments)))
            if queue:
                return queue.popleft()
        return None

    def _filled(self, name: str, sent: Json) -> Json:
        """Arguments as a record has them once they were found valid."""
        tool = self._tools.get(name)
        if tool is None or not isinstance(sent, dict) or tool.check.check(sent):
            return sent
        return tool.check.fill(sent)


class _Recorded:
    """One call that the code made, and the answer that it got."""

    def __init__(self, call: Taken, story: Story) -> None:
        content = story.content(call)
        if not isinstance(content, dict) or "arguments" not in content:
            raise Unfit("the arguments of a call that its code made are not on record")
        self.call = call
        self.arguments = content["arguments"]
        self.caused = 1 + sum(1 for _ in story.caused_by(call.id))
        self._said = story.answer(call)
        self._words = content.get("refused")
        if isinstance(self._said, Lost):
            raise Unfit(f"what a call that its code made was answered is not to be had: {self._said.reason}")
        if isinstance(self._said, Denied) and not isinstance(self._words, dict):
            raise Unfit("in which words a call that its code made was refused is not on record")

    def answer(self) -> bytes:
        """What the code gets. Raises `NestedRefusal` where it got one."""
        said = self._said
        if isinstance(said, Result):
            return answer(said.text, said.structured, said.problem, truncated=said.truncated)
        return answer("", None, said.problem if isinstance(said, Instead) else self._refusal(), truncated=False)

    def _refusal(self) -> Problem:
        said, words = cast(Denied, self._said), cast(Mapping[str, Any], self._words)
        return problem(said.code, str(words["detail"]), retry_after_ms=said.retry_after_ms, advice=words.get("advice"))


def allowed(call: Taken, story: Story, tools: Mapping[str, Tool]) -> int:
    """How many calls the code of this one could cause when it began. `tools` by digest. Raises Unfit."""
    outermost = call
    while outermost.parent is not None:
        around = story.find(outermost.parent)
        if around is None:
            raise Unfit("the call around it is not on record")
        outermost = around
    tool = tools.get(outermost.tool_digest or "")
    if tool is None or not isinstance(tool.backend, SandboxBackend):
        raise Unfit("the tool of the call around it is not here as it was")
    before = sum(1 for each in story.caused_by(outermost.id) if each.place <= call.place)
    return int(tool.backend.limits.get("host_calls", HOST_CALLS)) - before
