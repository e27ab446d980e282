"""What a ledger says of the past: what was counted live, what is worked out for new rules, and what is unknown."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from gateway.audit import query
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.ledger import open_ledger
from gateway.audit.shard import Tuning
from gateway.audit.verify import segments
from gateway.history import Backfilled, History, backfill
from gateway.loading import load_files
from gateway.model import Arguments, Call, Caller, Failure, Principal, RawOutput, Refusal
from gateway.policy.bundle import PolicyBundle
from gateway.problems import problem
from gateway.reliability.cells import Cells
from gateway.stores.counters import MemoryCounters
from gateway.stores.counters import MemoryCounters as Counters
from gateway.tool import HttpBackend
from gateway.work import Work
from tests.gateway.test_state_line import HEAD, SPECS
from tests.kit import Lab

RULES = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
STATE = """
state:
  times: {count: {tools: [pay]}, within: 1h}
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
  numbers: {count_distinct: args.pr, of: {tools: [pay, review]}, within: 1h, over: agent}
  reviewed: {formerly: {tools: [review]}, same: args.pr, within: 1h}
  last: {since: {tools: [review]}, within: 1h, over: tenant}
"""
READS = """
- id: reading
  effect: forbid
  match: {tools: [pay]}
  when: [state.times > 99, state.paid > 1e9, state.numbers > 99, state.reviewed, state.last < 0.0]
"""
PLAIN, STATED = HEAD + RULES, HEAD + STATE + RULES + READS
QUIET = STATED.replace("match: {tools: ['*']}", "match: {tools: ['*']}, with: {record: metadata}")
PEOPLE = {"ann": Principal("dev", "default", "ann", scopes=frozenset({"agent"}))}


class Told:
    """A runner that does what the amount says: 13 fails, 404 is never reached."""

    async def run(self, work: Work) -> RawOutput:
        amount = work.arguments["amount"]
        if amount == 13:
            raise Failure(problem("upstream_error", "It broke."))
        if amount == 404:
            raise Refusal(problem("upstream_unreachable", "Nobody is there."))
        return RawOutput("ok")


def bundle_of(policy: str, without: str = "") -> PolicyBundle:
    """The policy over the three tools, or all but one of them."""
    specs = {name: text.encode() for name, text in SPECS.items() if name != f"{without}.yaml"}
    return load_files(specs, {"lab.yaml": policy.encode()}).bundle


CALLS: tuple[tuple[str, dict[str, object], str], ...] = (
    ("pay", {"amount": 0.1, "pr": 1}, "dev"),
    ("pay", {"amount": 0.2, "pr": 1}, "dev"),
    ("pay", {"amount": 13, "pr": 2}, "dev"),
    ("pay", {"amount": 404, "pr": 3}, "dev"),
    ("pay", {"amount": -5, "pr": "no number"}, "dev"),
    ("review", {"pr": 7}, "dev"),
    ("review", {"pr": 8, "amount": 13}, "dev"),
    ("pay", {"amount": 1000, "pr": 4}, "ann"),
    ("merge", {}, "dev"),
)


@dataclass
class Life:
    """A lab whose calls are on a real ledger in `home`, and the clock that both go by."""

    home: Path
    lab: Lab

    @property
    def now(self) -> float:
        return self.lab.trial.clock.at

    def read(self, bundle: PolicyBundle, known: frozenset[str] = frozenset()) -> tuple[MemoryCounters, Backfilled]:
        """Counters that know of the past only."""
        cells, counters = Cells(), MemoryCounters()
        found = backfill(self.home, bundle, cells, self.now, known)
        counters.adopt(cells)
        return counters, found

    def levels(self, counters: Counters, bundle: PolicyBundle, by: str = "dev", pr: int = 7) -> dict[str, object]:
        """What a payment by somebody reads now."""
        principal = self.lab.trial.authority.principals[by]
        session = self.lab.trial.sessions.find(principal.key, "default")
        assert session is not None
        call = Call("c_probe", Caller(principal, session), bundle.tools["pay"], Arguments({"pr": pr}), self.now, 0)
        cells = bundle.cells(call)
        levels = counters.levels(cells, self.now)
        return {cell.name.removeprefix("state."): levels[cell.key].value for cell in cells}


async def lived(
    home: Path, policy: str, calls: Sequence[tuple[str, dict[str, object], str]] = CALLS, pause: float = 10.0
) -> Life:
    """Makes the calls, one each `pause` seconds of the lab's clock."""
    lab = Lab.of(SPECS, {"lab.yaml": policy})
    lab.trial.authority.principals.update(PEOPLE)
    ledger = open_ledger(home, clock=lab.trial.clock.now)
    lab.gate = replace(lab.gate, ledger=ledger, runners={HttpBackend: Told()}, counters=MemoryCounters())
    for tool, arguments, by in calls:
        await lab.call(tool, arguments, by)
        lab.trial.clock.at += pause
    await ledger.close()
    return Life(home, lab)


def test_after_a_restart_everything_counts_as_it_did(tmp_path: Path) -> None:
    """Each kind, for each owner: what was done, what failed, what never ran, and the calls of others."""
    life = asyncio.run(lived(tmp_path, STATED))
    bundle = bundle_of(STATED)
    counters, found = life.read(bundle)
    ann, dev = life.levels(counters, bundle, "ann"), life.levels(counters, bundle)
    assert (ann, dev) == (
        life.levels(life.lab.gate.counters, bundle, "ann"),
        life.levels(life.lab.gate.counters, bundle),
    )
    assert dev == {"times": 3, "paid": 13.3, "numbers": 5, "reviewed": True, "last": 30.0}
    assert (ann["times"], ann["paid"], ann["reviewed"]) == (1, 1000.0, False)
    assert life.levels(counters, bundle, pr=8)["reviewed"] is False
    assert found == Backfilled(counted=6, unknown=0)


def test_a_new_rule_sees_what_was_before_it(tmp_path: Path) -> None:
    """Where nothing was reserved for it, what a call adds is worked out from its arguments on record."""
    life = asyncio.run(lived(tmp_path, PLAIN))
    bundle = bundle_of(STATED)
    counters, found = life.read(bundle)
    dev = {"times": 3, "paid": 13.3, "numbers": 5, "reviewed": True, "last": 30.0}
    assert life.levels(counters, bundle) == dev
    assert found == Backfilled(counted=6, unknown=0)


def test_what_has_left_its_window_is_not_brought_back(tmp_path: Path) -> None:
    """An hour later the hour is empty and the day is not."""
    life = asyncio.run(lived(tmp_path, STATED))
    life.lab.trial.clock.at += 3600.0
    bundle = bundle_of(STATED)
    counters, _ = life.read(bundle)
    wanted = {"times": 0, "paid": 13.3, "numbers": 0, "reviewed": False, "last": math.inf}
    assert life.levels(counters, bundle) == wanted


def test_what_is_known_already_is_left_out(tmp_path: Path) -> None:
    """A definition that is in force counts by itself: reading it again would count twice."""
    life = asyncio.run(lived(tmp_path, STATED))
    bundle = bundle_of(STATED)
    paid = next(stem for stem in bundle.windows if "\x1fpaid\x1f" in stem)
    counters, _ = life.read(bundle, frozenset(bundle.windows) - {paid})
    wanted = {"times": 0, "paid": 13.3, "numbers": 0, "reviewed": False, "last": math.inf}
    assert life.levels(counters, bundle) == wanted
    assert life.read(bundle, frozenset(bundle.windows))[1] == Backfilled(0, 0)


def test_without_content_what_was_reserved_still_counts(tmp_path: Path) -> None:
    """But what is declared later cannot be worked out without arguments, and that is said."""
    life = asyncio.run(lived(tmp_path, QUIET))
    bundle = bundle_of(QUIET)
    counters, found = life.read(bundle)
    assert life.levels(counters, bundle) == life.levels(life.lab.gate.counters, bundle)
    assert found == Backfilled(counted=6, unknown=0)
    longer = bundle_of(
        QUIET.replace(
            "{sum: args.amount, of: {tools: [pay]}, within: 24h", "{sum: args.amount, of: {tools: [pay]}, within: 2h"
        )
    )
    again, told = life.read(longer)
    assert life.levels(again, longer) == {**life.levels(counters, bundle), "paid": 0.0}
    assert told == Backfilled(counted=6, unknown=4)


def test_an_erased_session_is_unknown(tmp_path: Path) -> None:
    """Without its key nobody can read what its calls would add; the others count."""
    life = asyncio.run(lived(tmp_path, STATED))
    session = life.lab.trial.sessions.find(PEOPLE["ann"].key, "default")
    assert session is not None
    with closing(KeyStore(tmp_path / "state.db", master_key(tmp_path))) as keys:
        assert keys.erase([session.uid])
    assert life.read(bundle_of(STATED))[1] == Backfilled(counted=5, unknown=1)


def test_calls_of_a_tool_that_is_gone_count_as_they_were_reserved(tmp_path: Path) -> None:
    """And are unknown to what was declared since."""
    life = asyncio.run(lived(tmp_path, STATED))
    kept = STATED.replace("tools: [review]", "tools: ['rev*']").replace("tools: [pay, review]", "tools: [pay, 'rev*']")
    without = bundle_of(kept, without="review")
    assert life.read(without)[1].unknown == 2
    life = asyncio.run(lived(tmp_path / "second", kept))
    counters, found = life.read(without)
    assert life.levels(counters, without) == life.levels(life.lab.gate.counters, without)
    assert found == Backfilled(counted=6, unknown=0)


def test_a_call_that_never_ended_may_have_happened(tmp_path: Path) -> None:
    """After a crash: it is counted, but nothing was done by it."""
    life = asyncio.run(lived(tmp_path, STATED, CALLS[:1]))
    review = asyncio.run(lived(tmp_path / "other", STATED, (("review", {"pr": 7}, "dev"),)))
    for each in (life, review):
        (segment,) = [path for folder in query.shards(each.home) for path in segments(folder)]
        lines = segment.read_bytes().splitlines(keepends=True)
        segment.write_bytes(b"".join(line for line in lines if b'"call.outcome"' not in line))
    bundle = bundle_of(STATED)
    counters, found = life.read(bundle)
    assert (life.levels(counters, bundle)["paid"], found.counted) == (0.1, 1)
    counters, found = review.read(bundle)
    assert (review.levels(counters, bundle)["reviewed"], found.counted) == (False, 1)


def test_segments_that_ended_before_are_not_read(tmp_path: Path) -> None:
    """A year of log does not slow a start down: what is older than every window stays closed."""
    lab = Lab.of(SPECS, {"lab.yaml": PLAIN})

    async def fill() -> None:
        ledger = open_ledger(tmp_path, clock=lab.trial.clock.now, tuning=Tuning(segment=4096))
        lab.gate = replace(lab.gate, ledger=ledger, runners={HttpBackend: Told()})
        for _ in range(30):
            await lab.call("pay", {})
            lab.trial.clock.at += 60.0
        await ledger.close()

    asyncio.run(fill())
    everything = list(query.records(tmp_path))
    begin = lab.trial.clock.at - 600.0
    late = [record for record in everything if int(str(record["hlc"]), 16) >> 16 >= begin * 1000]
    assert 0 < len(late) < len(everything)
    (folder,) = query.shards(tmp_path)
    assert len(segments(folder)) > 5
    segments(folder)[1].write_bytes(b"damaged")
    assert list(query.since(tmp_path, begin)) == late


def test_a_bundle_that_comes_later_finds_the_past_and_what_was_on_its_way(tmp_path: Path) -> None:
    """Also calls that were judged by the bundle before, and were not on record when the past was read."""

    async def told() -> list[object]:
        life, said = await lived(tmp_path, PLAIN), list[str]()
        bundle, counters = bundle_of(STATED), MemoryCounters()
        history = History(tmp_path, counters, life.lab.trial.clock, said.append, late=0.01)
        await history.prepare(bundle, [])
        before = life.levels(counters, bundle)["times"]
        ledger = open_ledger(tmp_path, clock=life.lab.trial.clock.now)
        life.lab.gate = replace(life.lab.gate, ledger=ledger)
        await life.lab.call("pay", {})
        watch = asyncio.create_task(history.watch())
        while life.levels(counters, bundle)["times"] == before:  # noqa: ASYNC110  # counters tell nobody
            await asyncio.sleep(0.01)
        watch.cancel()
        await asyncio.wait({watch})
        await ledger.close()
        await history.prepare(bundle_of(STATED + "  message: Another text, with the same state.\n"), [bundle])
        return [before, life.levels(counters, bundle)["times"], said]

    said = "toolgate: state: 6 calls of the past count, 0 could not be read"
    assert asyncio.run(asyncio.wait_for(told(), 60)) == [3, 4, [said]]


def test_a_part_that_becomes_one_of_all_tenants_sees_what_was_before(tmp_path: Path) -> None:
    """While it was another tenant's, the calls of this one were not counted."""

    async def told() -> dict[str, object]:
        life, counters = await lived(tmp_path, PLAIN), MemoryCounters()
        elsewhere = bundle_of(STATED.replace("id: lab\n", "id: lab\ntenant: elsewhere\n"))
        everywhere = bundle_of(STATED)
        history = History(tmp_path, counters, life.lab.trial.clock, lambda _: None)
        await history.prepare(elsewhere, [])
        await history.prepare(everywhere, [elsewhere])
        return life.levels(counters, everywhere)

    assert asyncio.run(told()) == {"times": 3, "paid": 13.3, "numbers": 5, "reviewed": True, "last": 30.0}


def test_a_home_without_a_past_has_none(tmp_path: Path) -> None:
    """And nothing is read, or made, where no state is declared."""
    assert backfill(tmp_path, bundle_of(STATED), Cells(), 0.0) == Backfilled(0, 0)
    assert backfill(tmp_path, bundle_of(PLAIN), Cells(), 0.0) == Backfilled(0, 0)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "levels", "counted"),
    [
        ("done", {"times": 1, "paid": 13.0, "reviewed": True, "last": 40.0}, 2),
        ("not-done", {"times": 0, "paid": 0, "reviewed": False, "last": math.inf}, 0),
        (None, {"times": 1, "paid": 13.0, "reviewed": False, "last": 40.0}, 2),
    ],
)
def test_what_an_operator_says_of_a_call_in_doubt_counts_after_a_restart(
    tmp_path: Path, said: str | None, levels: dict[str, object], counted: int
) -> None:
    """Done, it counts and makes a `formerly` true; not done, what it reserved is taken back; unsaid, it may have been.

    A call whose content cannot be read is no unknown any more once it is known not to have been done.
    """
    life = asyncio.run(lived(tmp_path, STATED, (("pay", {"amount": 13, "pr": 1}, "dev"), ("review", {"pr": 7}, "dev"))))
    (segment,) = [path for folder in query.shards(tmp_path) for path in segments(folder)]
    lines = segment.read_bytes().splitlines(keepends=True)
    intents = [record for record in query.records(tmp_path) if record["type"] == "call.intent"]
    segment.write_bytes(b"".join(line for line in lines if b'"call.outcome"' not in line))
    for number, record in enumerate(intents if said else ()):
        resolved = {**record, "seq": 90 + number, "type": "call.resolved", "as": said}
        resolved |= {"hlc": f"{int(life.now * 1000) << 16:016x}"}
        resolved.pop("content")
        with segment.open("ab") as file:
            file.write(json.dumps(resolved).encode() + b"\n")
    life.lab.trial.clock.at += 30.0
    bundle = bundle_of(STATED)
    counters, found = life.read(bundle)
    read = life.levels(counters, bundle)
    assert {name: read[name] for name in levels} == levels
    assert found == Backfilled(counted=counted, unknown=0)
    with closing(KeyStore(tmp_path / "state.db", master_key(tmp_path))) as keys:
        keys.erase([], "default")
    _, found = life.read(bundle)
    assert found == Backfilled(counted=0, unknown=0 if said == "not-done" else 2)
