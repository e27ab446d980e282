"""What a gateway's ledger says was counted, as scripts put it back into a Redis that was emptied. It asks nothing
itself; each thing is put back once."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence

from gateway.reliability.counted import Counted
from gateway.stores.redis_cells import adopting
from gateway.stores.redis_words import micro
from gateway.stores.resp import Words

Step = tuple[str, list[str], Words]


def seeded(past: Counted, done: str, closed: Callable[[str, bytes], bytes], later: float = 0.0) -> Iterator[Step]:
    """Script, keys and arguments of each step. `done` is the key where Redis notes what was put back; `closed` seals
    what was kept of a claim's outcome; the clock of Redis is so many seconds `later` than that of the ledger."""
    for key, arrival in past.rates.items():
        yield restored(done, key, arrival, later)
    for used in past.used:
        amounts = tuple(word for pair in used.amounts.items() for word in pair)
        yield "seed", [done, f"tg:used:{used.key}"], ("used", math.ceil((used.ends + later) * 1000), *amounts)
    for each in past.claims:
        claimed, ends = each.claimed, math.ceil((each.ends + later) * 1000)
        fields: list[str | bytes | int] = ["call", claimed.call_id, "fp", claimed.fingerprint, "state", claimed.state]
        fields += ["until", micro(claimed.until + later), "ends", ends * 1000, "session", each.session]
        if claimed.kept is not None:
            fields += ["kept", closed(each.key, claimed.kept)]
        yield "seed", [done, f"tg:claim:{each.key}"], ("claim", ends, *fields)
    for keys, words in adopting(past.cells) if past.cells is not None else ():
        yield "adopt", keys, words


def restored(done: str, key: str, arrival: float, later: float) -> Step:
    """The step that puts back a rate: the latest that any gateway knows counts."""
    at = arrival + later
    return "seed", [done, f"tg:rate:{key}"], ("rate", math.ceil(at * 1000), micro(at))


def leaving(
    calls: Sequence[str], past: Counted, me: str, closed: Callable[[str, bytes], bytes]
) -> Iterator[tuple[list[str], Words]]:
    """Keys and arguments of `leave.lua` for each call that a life before left open."""
    claims = {each.claimed.call_id: each for each in past.claims}
    for call_id in calls:
        ended = "unknown" if call_id in past.ran else "refused"
        kept, session = b"", ""
        claim = claims.get(call_id)
        if claim is not None and claim.claimed.kept is not None:
            ended, kept, session = "done", closed(claim.key, claim.claimed.kept), claim.session
        keys = ["tg:version", f"tg:lease:{call_id}", f"tg:open:{me}", f"tg:kept:{session}"]
        yield keys, (call_id, ended, kept, session)
