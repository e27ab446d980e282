"""A replay, put together: the composition root without anything that could reach outside.

No client, no sandbox, no vault, no connection to an upstream, nothing that publishes. What it writes goes to a home of
its own below the recorded one.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gateway.app import RandomIds, SystemClock, doors_of, ledger_of, put_in_force, tuning_of
from gateway.audit.search import Search
from gateway.backends import offers
from gateway.doors.edge import Edge
from gateway.history import backfill
from gateway.home import Home
from gateway.identity.keys import KeyAuthority, new_key
from gateway.live import Live
from gateway.loading import Loaded, load_folders, require_tests
from gateway.model import Artifact
from gateway.policy.bundle import PolicyBundle
from gateway.ports import Key
from gateway.reliability.cells import Cells
from gateway.replay.answers import Result
from gateway.replay.gate import Replay, ReplayGate
from gateway.replay.outside import OneSession, RecordedArtifacts, TheCaller
from gateway.replay.session import RecordedSession, Unreplayable, read_session
from gateway.screening import IssuedSecrets, Screener, bundled
from gateway.settings import Settings
from gateway.stores.approvals import MemoryApprovals
from gateway.stores.counters import MemoryCounters
from gateway.stores.memory import MemoryKeys, MemoryOutcomes
from gateway.stores.sqlite import SqliteArtifactRows, SqliteKeys, State
from gateway.upkeep import LedgerUpkeep

_RESERVE = 64 << 10  # bytes: nothing runs here that a full disk must not leave untold, and each replay keeps its own


@dataclass(frozen=True, slots=True)
class ReplayService:
    """A replay that answers: its pipeline and doors, what it replays, the key made for it, and its own home."""

    gate: ReplayGate
    app: Edge
    loaded: Loaded
    replay: Replay
    key: str
    home: Home


@asynccontextmanager
async def open_replay(
    settings: Settings, name: str, agent: str | None, progress: Callable[[str], None]
) -> AsyncIterator[ReplayService]:
    """A replay of the session of that name in the home of the settings.

    Raises:
        Unreplayable: there is no such session, or its ledger does not verify. SpecErrors, BadHome: as for a gateway.
    """
    loaded = load_folders(settings.folder("tool_specs"), settings.folder("policies"), offers(settings.sandboxes))
    require_tests(loaded.bundle)
    source = Home(settings.home)
    source.must_exist()
    session = await asyncio.to_thread(read_session, source.path, name, agent)
    for line in session.lost:
        progress(f"toolgate: cannot be replayed: {line}")
    replay, home = Replay.of(session), _home_of(source, session)
    _make_private(home)
    async with AsyncExitStack() as stack:
        tuning = replace(tuning_of(settings), reserve=_RESERVE)
        ledger = await asyncio.to_thread(ledger_of, home, tuning)
        stack.push_async_callback(ledger.close)
        keys, (known, artifacts) = MemoryKeys(), await asyncio.to_thread(_of_state, source, session)
        key = await _fresh_key(keys, known, replay)
        screener = Screener(bundled(), IssuedSecrets())
        folders, version = (settings.folder("policies"), settings.candidate), screener.rules.version
        live = Live(loaded, *folders, home, ledger, version, say=progress)
        anonymous = session.principal.authn == "anonymous" and settings.on_loopback
        counters = MemoryCounters(await asyncio.to_thread(_before, source.path, loaded.bundle, session))
        gate = ReplayGate(
            # A key of then that has expired since is good for nothing.
            authority=TheCaller(KeyAuthority(keys, SystemClock(), anonymous=anonymous), session.principal),
            sessions=OneSession(session.session),
            catalogue=loaded.catalogue,
            bundles=live,
            counters=counters,
            claims=counters,
            approvals=MemoryApprovals(),
            runners={},
            screener=screener,
            ledger=ledger,
            outcomes=MemoryOutcomes(),
            artifacts=artifacts,
            clock=replay.clock,
            ids=RandomIds(),
            replay=replay,
        )
        await put_in_force(live, home)
        past, upkeep = stack.enter_context(contextlib.closing(Search(home.path))), LedgerUpkeep(home.path, ledger)
        doors = doors_of(gate, [live.state], upkeep, past, settings)
        yield ReplayService(gate, doors, loaded, replay, key, home)


def _home_of(source: Home, session: RecordedSession) -> Home:
    now = time.time()
    at = time.strftime("%Y%m%dT%H%M%S", time.gmtime(now))
    return Home(source.path / "replays" / f"{session.session.id}-{at}.{int(now % 1 * 1000):03d}Z")


def _make_private(home: Home) -> None:
    """The home of a replay and the folder of all of them, which nobody else looks into. Raises `BadHome`."""
    with contextlib.suppress(OSError):  # what is wrong is said below
        home.path.parent.mkdir(mode=0o700, exist_ok=True)
    home.make()
    State(home.state).close()  # it is private from its beginning


def _of_state(source: Home, session: RecordedSession) -> tuple[list[Key], RecordedArtifacts]:
    """Keys of the recorded caller that are in force, and the files it has; copies, so that nothing is written there."""
    who = session.principal
    try:
        with contextlib.closing(State(source.state)) as state:
            keys = SqliteKeys(state).all()
            kept = SqliteArtifactRows(state).all()
    except (sqlite3.Error, OSError) as error:
        raise Unreplayable(f"{source.state}: cannot be read: {error}") from error
    own = [key for key in keys if (key.agent, key.tenant, key.user) == (who.agent, who.tenant, who.user)]
    return [key for key in own if "agent" in key.scopes], RecordedArtifacts(source.artifacts, [*_left(session), *kept])


def _left(session: RecordedSession) -> list[Artifact]:
    return [each for call in session.calls if isinstance(call.answer, Result) for each in call.answer.artifacts]


async def _fresh_key(keys: MemoryKeys, known: Sequence[Key], replay: Replay) -> str:
    """The recorded caller by its own keys, and by one that is made for the replay."""
    for each in known:
        await keys.add(each)
    who = replay.session.principal
    secret, key = new_key(who.agent, who.tenant, "agent", replay.clock.now(), user=who.user)
    await keys.add(key)
    return secret


def _before(home: Path, bundle: PolicyBundle, session: RecordedSession) -> Cells:
    """What policy counts of the past, as it was before the session's first call."""
    cells = Cells()
    try:
        backfill(home, bundle, cells, session.calls[0].at, before=session.clock)
    except (sqlite3.Error, OSError, ValueError) as error:
        raise Unreplayable(f"{home}: its past cannot be read: {error}") from error
    return cells
