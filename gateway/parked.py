"""A call that waits for a person: the nouns of approvals. What a rule requires is `obligations.Approval`.

It never decides who may answer: `stages/answering.py` does.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from gateway.obligations import Approval
from gateway.tool import Json

LONGEST_WHY = 300  # characters of the reason that a model is told
REQUESTER = "requester"  # in `Approval.by`: the person at the agent says yes, which is a confirmation


@dataclass(frozen=True, slots=True)
class Answer:
    """What a person said: for which `rules`, who (a person's name, and the key or token used), when, by which door.

    `via`: `rest`, `cli`, `elicitation`. Times are unix seconds.
    """

    yes: bool
    rules: tuple[str, ...]
    person: str | None
    token_id: str
    at: float
    via: str
    why: str = ""


@dataclass(frozen=True, slots=True)
class Preview:
    """What the tool's read-only preview showed, screened, and what identifies it: changed, the approval is void."""

    text: str
    etag: str


@dataclass(frozen=True, slots=True)
class Parked:
    """A call that may happen once everybody has said yes whom its rules name: exactly this call, once.

    `binding` is a digest over caller, session, tool digest, credential subjects, canonical arguments and what is
    needed; a call with another one is another call. `call_id` is the call that was parked first, `used_by` the one
    that was let through. `arguments` are shown to people and to nobody else. Times are unix seconds.
    """

    id: str
    binding: str
    call_id: str
    tool: str
    tool_digest: str
    tenant: str
    owner: str  # `Principal.key`
    agent: str
    user: str | None
    token_id: str
    session: str  # uid
    needs: tuple[Approval, ...]
    asked_at: float
    expires_at: float
    arguments: Json = field(default=None, repr=False)
    state: Literal["pending", "granted", "denied", "used"] = "pending"
    answers: tuple[Answer, ...] = ()
    preview: Preview | None = field(default=None, repr=False)
    used_by: str | None = None
    actors: tuple[str, ...] = ()  # `Principal.actors`

    def standing(self, now: float) -> str:
        """How it stands: `pending`, `granted`, `denied`, `used` or, once its time is over, `expired`."""
        open_ = self.state in ("pending", "granted")
        return "expired" if open_ and now >= self.expires_at else self.state

    @property
    def confirms(self) -> bool:
        """Whether a yes of the requester's own person is all that it takes."""
        return all(each.by == (REQUESTER,) for each in self.needs)

    def to_confirm(self) -> tuple[Approval, ...]:
        """Of the rules that nobody has said yes for yet, those that are the requester's alone to say."""
        return tuple(each for each in self.open_rules() if each.by == (REQUESTER,))

    def open_rules(self) -> tuple[Approval, ...]:
        """The rules that nobody has said yes for yet."""
        said = {rule for answer in self.answers if answer.yes for rule in answer.rules}
        return tuple(each for each in self.needs if each.rule not in said)
