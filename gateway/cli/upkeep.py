"""`toolgate audit resolve`, `erase`, `rotate-key`: over the ledger itself, or through the gateway that is writing it.

While a gateway runs it holds the ledger's lock, so it is asked, with an operator's key. When none runs, whoever can
read the home folder's keys is the operator.
"""

from __future__ import annotations

import asyncio
import os
import sys
from argparse import ArgumentParser
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from functools import partial
from typing import Any

from gateway.audit.ledger import LedgerLocked, open_ledger
from gateway.audit.recover import TamperedLog
from gateway.audit.shard import Tuning
from gateway.audit.text import printable
from gateway.cli.call import post
from gateway.cli.common import Arguments, Verbs, home_of, say, settings_of
from gateway.cli.reading import who
from gateway.ledger_ports import Upkeep, Whose
from gateway.model import Position, Refusal
from gateway.problems import text
from gateway.retention import keeping
from gateway.settling import claims_of
from gateway.sharing import erase_shared
from gateway.stores.sqlite import State, sessions_in_use
from gateway.tool import Json
from gateway.upkeep import LedgerUpkeep

_NEEDS_KEY = (
    "a gateway is running and writes the ledger, so it has to be asked: give an operator's key in TOOLGATE_KEY or "
    "--key (`toolgate keys create --scope operator` makes one), or stop the gateway"
)
_LONGEST_WHY = 1000


def add(what: Verbs, common: ArgumentParser) -> None:
    """Adds the verbs below `audit`."""
    resolve = what.add_parser("resolve", parents=[common], help="say how a call in doubt ended")
    resolve.add_argument("call_id")
    resolve.add_argument("--as", dest="ended", choices=("done", "not-done"), required=True, help="how it ended")
    resolve.set_defaults(run=run_resolve)
    erase = what.add_parser("erase", parents=[common], help="delete the content of sessions, for good")
    erase.add_argument("--session", help="id of a session, or the key that its records name")
    erase.add_argument("--agent", help="sessions of this agent only")
    erase.add_argument("--user", help="sessions of this person only")
    erase.add_argument("--tenant", help="sessions of this tenant only; alone, all of the tenant's")
    erase.set_defaults(run=run_erase)
    rotate = what.add_parser("rotate-key", parents=[common], help="put another signing key in place of the one in use")
    rotate.set_defaults(run=run_rotate_key)
    for verb in (resolve, erase, rotate):
        verb.add_argument("--why", required=True, help="reason, which stands on record in plain")
        verb.add_argument("--url", help="gateway to ask, if one is running (default: the one of this home)")
        verb.add_argument("--key", help="operator's key; better given as TOOLGATE_KEY")


def run_resolve(arguments: Arguments) -> int:
    """Puts on record how a call in doubt ended."""

    async def here(upkeep: Upkeep) -> dict[str, Any]:
        place = await upkeep.resolve(arguments.call_id, arguments.ended, arguments.why, who())
        return {"call_id": arguments.call_id, "as": arguments.ended, "record": place_said(place)}

    asked = {"call_id": arguments.call_id, "as": arguments.ended, "why": arguments.why}
    return carry_out(arguments, "/v1/audit:resolve", asked, here, "{call_id} is on record as {as}")


def run_erase(arguments: Arguments) -> int:
    """Deletes content keys and blobs, and puts on record that it did."""
    given = {name: value for name in ("session", "tenant", "agent", "user") if (value := getattr(arguments, name))}
    if not given:
        return wrong("say whose content is to be erased: --session, --agent, --user or --tenant")

    async def here(upkeep: Upkeep) -> dict[str, Any]:
        done = await upkeep.erase(Whose(**given), arguments.why, who())
        counts = {"sessions": done.sessions, "keys": done.keys, "blobs": done.blobs}
        return {**counts, "record": place_said(done.position)}

    said = "sessions meant: {sessions}, keys deleted: {keys}, blobs removed: {blobs}"
    return carry_out(arguments, "/v1/audit:erase", {**given, "why": arguments.why}, here, said)


def run_rotate_key(arguments: Arguments) -> int:
    """Replaces the signing key, and puts on record that it did."""

    async def here(upkeep: Upkeep) -> dict[str, Any]:
        done = await upkeep.rotate_key(arguments.why, who())
        return {"old": done.old, "new": done.new, "record": place_said(done.position)}

    said = "heads are signed with {new} from now on: keep a copy of audit/key.pub elsewhere, beside the old one"
    return carry_out(arguments, "/v1/audit:rotate-key", {"why": arguments.why}, here, said)


def carry_out(
    arguments: Arguments,
    route: str,
    asked: Mapping[str, Json],
    here: Callable[[Upkeep], Awaitable[dict[str, Any]]],
    words: str,
) -> int:
    """Does it here when no gateway runs, else asks the one that does. Exit 1 refused, 2 not understood."""
    if not 0 < len(getattr(arguments, "why", "-")) <= _LONGEST_WHY:
        return wrong(f"--why has 1 to {_LONGEST_WHY} characters")
    try:
        done = asyncio.run(_here(arguments, here))
    except Refusal as refusal:
        return wrong(text(refusal.problem), 1)
    except LedgerLocked:
        return _ask(arguments, route, asked, words)
    except (TamperedLog, OSError, ValueError) as error:
        return wrong(str(error), 1)
    say(arguments, done, words.format(**done))
    return 0


async def _here(arguments: Arguments, work: Callable[[Upkeep], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
    home, settings = home_of(arguments), settings_of(arguments)
    audit = settings.audit
    ledger = open_ledger(home.path, tuning=Tuning(segment=audit.segment, checkpoint_every=audit.checkpoint_interval))
    try:
        with closing(State(home.state)) as state, claims_of(home, settings.store, ledger) as claims:
            kept_for = keeping(audit.retain, partial(sessions_in_use, state))
            erased: set[str] = set()
            done = await work(LedgerUpkeep(home.path, ledger, kept_for, erased=erased.update, claims=claims))
            if erased and settings.store not in ("sqlite", "memory"):
                await erase_shared(settings.store, erased)
            return done
    finally:
        await ledger.close()


def _ask(arguments: Arguments, route: str, asked: Mapping[str, Json], words: str) -> int:
    key = arguments.key or os.environ.get("TOOLGATE_KEY")
    known = home_of(arguments).read_credentials()
    url = arguments.url or (known[0] if known else "http://127.0.0.1:8080")
    if not key:
        return wrong(_NEEDS_KEY)
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    try:
        status, said = post(url, route, asked, headers)
    except (OSError, ValueError) as error:
        return wrong(f"a process holds the ledger, and no gateway answers at {url}: {error}", 1)
    if status != 200:
        return wrong(f"{said.get('title')} ({said.get('code')}). {said.get('detail')}", 1)
    say(arguments, said, words.format(**said))
    return 0


def place_said(position: Position) -> dict[str, Json]:
    return {"shard": position.shard, "seq": position.seq}


def wrong(said: str, code: int = 2) -> int:
    print(f"toolgate: {printable(said)}", file=sys.stderr)
    return code
