"""The one runner of a replay, for backends of every kind: it gives what is on record, and never runs anything."""

from __future__ import annotations

from dataclasses import dataclass

from gateway.model import Problem, RawOutput, Refusal
from gateway.work import Work


@dataclass(frozen=True, slots=True)
class ReplayRunner:
    """Answers one call: with a result as it came, or with the problem that came instead of one."""

    answer: RawOutput | Problem

    async def run(self, work: Work) -> RawOutput:
        """The recorded output, at once. Raises `Refusal` with the recorded problem, or why there is nothing to give."""
        if isinstance(self.answer, Problem):
            raise Refusal(self.answer)
        return self.answer
