"""Which recorded call a call is: by tool, arguments and how often that pair came before; and what to say if none is.

In memory only. Order between different calls is free, so calls that were made side by side can be made so again.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

from gateway import strictjson
from gateway.model import Problem
from gateway.problems import problem
from gateway.replay.session import Recorded
from gateway.tool import Fix, Json

_TOLD = 10  # places at which a call differs from the nearest on record
_SHOWN = 80  # characters of a value there
_NOTHING = "nothing"


@dataclass(slots=True)
class Turn:
    """One call of a replay: the recorded call it is, if there is one, and whether it got its intent by now.

    `digest` is that of its arguments, `occurrence` counts from 1.
    """

    tool: str
    arguments: Json
    digest: str
    occurrence: int
    recorded: Recorded | None
    admitted: bool = False

    @property
    def recorded_id(self) -> str | None:
        return self.recorded.id if self.recorded else None


class Script:
    """The calls of a recorded session; each is had once."""

    def __init__(self, calls: Sequence[Recorded]) -> None:
        self._calls = calls
        self._left: dict[str, Recorded] = {call.id: call for call in calls}
        self._claims: set[str] = set()
        self._asked: defaultdict[tuple[str, str], int] = defaultdict(int)

    def take(self, tool: str, arguments: Json, digests: Sequence[str], claim: str | None = None) -> Turn:
        """The first call of that tool and arguments that nobody had yet; by an idempotency key, the one of its claim.

        `digests`: of the arguments with defaults and as they came. A call that was refused early has the latter.
        """
        self._asked[tool, digests[0]] += 1
        occurrence = self._asked[tool, digests[0]]
        found = self._find(
            [call for call in self._left.values() if call.tool == tool and call.digest in digests], claim
        )
        if found is not None:
            del self._left[found.id]
        return Turn(tool, arguments, digests[0], occurrence, found)

    def _find(self, fitting: Sequence[Recorded], claim: str | None) -> Recorded | None:
        """A repeat is never another call; which key a call that was refused had is not on record."""
        if claim is not None:
            known, seen = [call for call in fitting if call.claim == claim], claim in self._claims
            self._claims.add(claim)
            fitting = known or [call for call in fitting if not seen or call.claim is None]
        return next(iter(fitting), None)

    def never(self) -> Sequence[Recorded]:
        """The calls that nobody asked for."""
        return list(self._left.values())

    def missed(self, turn: Turn) -> Problem:
        """What to say of a call that cannot be answered from the record."""
        if turn.recorded is not None and turn.recorded.lost:
            return _miss(f"The call is on record as {turn.recorded.id}, but {turn.recorded.lost}.")
        which = f"arguments {turn.digest}, occurrence {turn.occurrence}"
        said = [f"No such call of {turn.tool} is on record ({which})."]
        if not turn.digest:
            return _miss(*said, "The keys that arguments are found by were erased.")
        near = self._nearest(turn)
        if near is None:
            return _miss(*said, f"No call of {turn.tool} is on record with its arguments.")
        call, places = near
        if not places:
            return _miss(*said, f"{call.id} has the same arguments, and was asked for before.")
        fixes = tuple(_fix(pointer, call.arguments, turn.arguments) for pointer in places[:_TOLD])
        more = f" and {len(places) - _TOLD} more" if len(places) > _TOLD else ""
        where = ", ".join(pointer or "the whole" for pointer in places[:_TOLD])
        return _miss(*said, f"The nearest, {call.id}, differs at {where}{more}.", fixes=fixes)

    def _nearest(self, turn: Turn) -> tuple[Recorded, Sequence[str]] | None:
        """The recorded call of that tool with the fewest differences; one that nobody had yet, if it is as near."""
        best: tuple[tuple[int, bool], Recorded, Sequence[str]] | None = None
        for call in self._calls:
            if call.tool == turn.tool and call.unreadable is None:
                places = list(differences(call.arguments, turn.arguments))
                rank = (len(places), call.id not in self._left)
                if best is None or rank < best[0]:
                    best = (rank, call, places)
        return None if best is None else best[1:]


def refused_then(turn: Turn, code: str) -> Problem:
    """What to say of a call that was refused when it was recorded, and is permitted now."""
    return _miss(f"The call was refused then ({code}, {turn.recorded_id}) and is permitted now: it has no result.")


def differences(then: Json, now: Json, at: str = "") -> Iterator[str]:
    """The JSON Pointers (RFC 6901) of the innermost places at which two values differ."""
    if isinstance(then, dict) and isinstance(now, dict):
        for name in sorted(then.keys() | now.keys()):
            below = f"{at}/{name.replace('~', '~0').replace('/', '~1')}"
            if name in then and name in now:
                yield from differences(then[name], now[name], below)
            else:
                yield below
    elif isinstance(then, list) and isinstance(now, list):
        for index in range(max(len(then), len(now))):
            if index < len(then) and index < len(now):
                yield from differences(then[index], now[index], f"{at}/{index}")
            else:
                yield f"{at}/{index}"
    elif strictjson.canonical(then) != strictjson.canonical(now):
        yield at


def _fix(pointer: str, then: Json, now: Json) -> Fix:
    return Fix(pointer, _at(now, pointer), f"as recorded: {_at(then, pointer)}")


def _at(value: Json, pointer: str) -> str:
    for part in islice(pointer.split("/"), 1, None):
        name = part.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and name in value:
            value = value[name]
        elif isinstance(value, list) and int(name) < len(value):
            value = value[int(name)]
        else:
            return _NOTHING
    spelled = strictjson.canonical(value).decode()
    return spelled if len(spelled) <= _SHOWN else spelled[:_SHOWN] + "…"


def _miss(*sentences: str, fixes: tuple[Fix, ...] = ()) -> Problem:
    return problem("replay_miss", " ".join(sentences), fix=fixes)
