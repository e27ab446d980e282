"""Recorded calls under a policy that was changed in one known way: exactly the difference that makes, and no other."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from gateway.audit import query
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.ledger import open_ledger
from gateway.audit.verify import segments
from gateway.audit.writer import Writer
from gateway.model import Principal
from gateway.ports import Line
from gateway.simulate.run import Unverified
from tests.gateway.audit.archives import archive
from tests.gateway.simulate.recording import Made, Recording, only

OPEN = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}}\n"
CAPPED = """
state:
  paid: {count: {tools: [pay]}, within: 1h}
rules:
- {id: ok, effect: permit, match: {tools: ['*']}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid >= 3]}
"""
RATED = "rules:\n- {id: ok, effect: permit, match: {tools: ['*']}, with: {limit: {calls: 2/10s, key: session}}}\n"
LABELS = """
rules:
- {id: ok, effect: permit, match: {tools: ['*']}}
- {id: tainted, effect: forbid, match: {tools: [pay]}, when: ['"untrusted" in session.labels']}
"""
BLIND = LABELS.replace("- {id: ok", "- {id: blind, effect: forbid, match: {tools: [look]}}\n- {id: ok")
SPENT = "- {id: spent, effect: forbid, match: {tools: [pay]}, when: [session.cost >= 4.0]}\n"
COUNTED = "- {id: counted, effect: forbid, match: {tools: [pay]}, when: [session.calls >= 2]}\n"
NO_WAR = "- {id: small, effect: forbid, match: {tools: [pay]}, when: [args.amount > 50.0]}\n"
ALL_KINDS = """
state:
  times: {count: {tools: [pay]}, within: 1m}
  paid: {sum: args.amount, of: {tools: [pay]}, within: 2m, over: user}
  sizes: {count_distinct: args.amount, of: {tools: ['*']}, within: 1m, over: agent}
  reviewed: {formerly: {tools: [review]}, same: args.amount, within: 1m}
  last: {since: {tools: [review]}, within: 1m, over: tenant}
rules:
- {id: ok, effect: permit, match: {tools: [pay, review, look]}, with: {limit: {calls: 4/20s, key: session}}}
- {id: slowly, effect: permit, match: {tools: [pay]}, with: {limit: {calls: 1/3s, key: user}}}
- {id: merged, effect: permit, match: {tools: [merge]}, when: [state.reviewed]}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.times >= 5]}
- {id: sum, effect: forbid, match: {tools: [pay]}, when: [state.paid + args.amount > 500.0]}
- {id: sizes, effect: forbid, match: {tools: [look]}, when: [state.sizes > 4]}
- {id: soon, effect: forbid, match: {tools: [pay]}, when: [state.last < 3.0]}
- {id: spent, effect: forbid, match: {tools: [merge]}, when: [session.cost > 30.0]}
- {id: eng, effect: forbid, match: {tools: [look], groups: [eng]}, when: ["'untrusted' in session.labels"]}
"""


def recorded(folder: Path, policy: str, calls: list[Made]) -> Recording:
    """The calls, made under a policy."""
    return asyncio.run(Recording(folder / "home").under(policy, calls))


def test_a_forbid_more_forbids_what_it_says(tmp_path: Path) -> None:
    """And the report names the rule, the calls, the agent and the tool."""
    made = recorded(tmp_path, OPEN, [Made("pay", 10), Made("pay", 60), Made("review", 60), Made("pay", 70)])
    report = made.simulated(OPEN + NO_WAR)
    found = {"drift": 0, "newly-permitted": 0, "newly-forbidden": 2, "obligations": 0, "not-replayable": 0}
    assert (report.found, report.calls, report.same) == (found, 4, 2)
    group = only(report.groups("newly-forbidden"))
    assert (group.rule, group.examples, group.count) == ("small (forbidden)", [made.ids[1], made.ids[3]], 2)
    assert (group.before, group.after) == ("permit ok", "refuse small (forbidden)")
    assert (group.agents, group.tools, group.after_divergence) == ({"dev"}, {"pay"}, 1)


def test_a_forbid_less_permits_what_it_forbade(tmp_path: Path) -> None:
    """The group is named for the rule that is gone."""
    made = recorded(tmp_path, OPEN + NO_WAR, [Made("pay", 60), Made("pay", 10)])
    report = made.simulated(OPEN)
    group = only(report.groups("newly-permitted"))
    assert (group.rule, group.after, group.examples) == ("small (forbidden)", "permit ok", [made.ids[0]])
    assert report.found["drift"] == 0


def test_a_hidden_tool_that_is_shown_is_newly_permitted(tmp_path: Path) -> None:
    """Its call never came before policy then; where its arguments do not fit, it is refused as before."""
    narrow = OPEN.replace("'*'", "pay")
    made = recorded(tmp_path, narrow, [Made("look"), Made("look", "no number"), Made("pay"), Made("nowhere")])  # type: ignore[arg-type]  # what no caller should send
    assert made.codes == ["unknown_tool", "unknown_tool", "done", "unknown_tool"]
    assert made.differ(OPEN, "newly-permitted") == [0]
    assert made.simulated(narrow).same == 4


def test_a_cap_sees_the_calls_before(tmp_path: Path) -> None:
    """What only state can tell: the fourth and fifth of the same hour, and none that the cap refused itself counts."""
    made = recorded(tmp_path, OPEN, [*[Made("pay", pause=60)] * 5, Made("pay", pause=3600)])
    assert made.differ(CAPPED, "newly-forbidden") == [3, 4]


def test_a_cap_that_is_lifted_counts_what_it_lets_through(tmp_path: Path) -> None:
    """Five instead of three: the fourth and fifth happen now, so that the sixth and seventh are refused still."""
    made = recorded(tmp_path, CAPPED, [Made("pay")] * 7)
    assert made.codes == ["done"] * 3 + ["forbidden"] * 4
    assert made.differ(CAPPED.replace(">= 3", ">= 5"), "newly-permitted") == [3, 4]


def test_a_rate_sees_the_calls_before(tmp_path: Path) -> None:
    """A burst of two, then one each five seconds; the group names the rule whose rate it is."""
    made = recorded(tmp_path, OPEN, [Made("pay"), Made("pay"), Made("pay"), Made("pay", pause=5), Made("pay")])
    assert made.differ(RATED, "newly-forbidden") == [2, 4]
    group = only(made.simulated(RATED).groups("newly-forbidden"))
    assert group.rule == "ok (rate_limited)"


def test_a_wider_rate_lets_through_what_was_limited(tmp_path: Path) -> None:
    """And only as much as it has room for."""
    made = recorded(tmp_path, RATED, [Made("pay")] * 5)
    assert made.codes == ["done", "done", "rate_limited", "rate_limited", "rate_limited"]
    assert made.differ(RATED.replace("2/10s", "4/10s"), "newly-permitted") == [2, 3]
    assert made.simulated(RATED).same == 5


def test_labels_of_a_call_that_is_forbidden_are_taken_out(tmp_path: Path) -> None:
    """So what was refused because of them is permitted, and is marked as after a divergence."""
    made = recorded(tmp_path, LABELS, [Made("look"), Made("pay")])
    assert made.codes == ["done", "forbidden"]
    report = made.simulated(BLIND)
    kinds = {str(each["class"]): each["after_divergence"] for each in report.changes}
    assert kinds == {"newly-forbidden": False, "newly-permitted": True}


def test_labels_and_cost_of_a_call_that_is_permitted_are_assumed(tmp_path: Path) -> None:
    """As the tool declares them: the other way round, in calls, cost and labels."""
    made = recorded(tmp_path, BLIND, [Made("look"), Made("look"), Made("pay")])
    assert made.codes == ["unknown_tool", "unknown_tool", "done"]
    assert made.differ(LABELS, "newly-forbidden") == [2]
    assert made.differ(OPEN + SPENT, "newly-forbidden") == [2]
    assert made.differ(OPEN + COUNTED, "newly-forbidden") == [2]
    assert made.differ(OPEN, "newly-forbidden") == []


def test_another_session_has_seen_nothing(tmp_path: Path) -> None:
    """A divergence changes the labels of its own session only."""
    made = recorded(tmp_path, BLIND, [Made("look", session="one"), Made("pay", session="two")])
    assert made.differ(LABELS, "newly-forbidden") == []
    assert made.differ(LABELS, "newly-permitted") == [0]


def test_a_label_that_a_rule_gives_now_is_seen_by_later_calls(tmp_path: Path) -> None:
    """An obligation is changed, and what it changes follows."""
    made = recorded(tmp_path, OPEN, [Made("review"), Made("pay")])
    marking = LABELS.replace(
        "- {id: ok", "- {id: mark, effect: permit, match: {tools: [review]}, with: {label: [untrusted]}}\n- {id: ok"
    )
    report = made.simulated(marking)
    assert [(change["class"], change["call_id"]) for change in report.changes] == [
        ("obligations", made.ids[0]),
        ("newly-forbidden", made.ids[1]),
    ]
    group = only(report.groups("obligations"))
    assert (group.rule, group.key, group.before, group.after) == ("mark", "label", [], ["untrusted"])


ASKING = OPEN.replace("['*']}", "['*']}, with: {approval: {by: ['group:operators'], ttl: 15m}}")


def test_a_call_that_nobody_said_yes_to_is_refused(tmp_path: Path) -> None:
    """A parked call in the record, and one that would be parked in the simulation."""
    made = recorded(tmp_path, ASKING, [Made("pay")])
    assert made.codes == ["approval_required"]
    assert (made.simulated(ASKING).same, made.differ(OPEN, "newly-permitted")) == (1, [0])
    second = asyncio.run(Recording(tmp_path / "other").under(OPEN, [Made("pay")]))
    assert only(second.simulated(ASKING).groups("newly-forbidden")).rule == "ok (approval_required)"


def test_a_yes_on_record_holds_for_those_whom_it_was_asked_of(tmp_path: Path) -> None:
    """Of a call that waited, was granted and ran: no drift; who asks others has not got a yes, nor who asks more."""
    made = Recording(tmp_path / "home")

    async def run() -> None:
        async with made.started(ASKING) as lab:
            await made.call(lab, Made("pay"))
            ann = Principal("desk", "default", "ann", scopes=frozenset({"operator"}), token_id="k_ann")
            (parked,) = await lab.gate.approvals_of(ann)
            await lab.gate.answer(ann, parked.id, True)
            await made.call(lab, Made("pay", pause=5))
            await made.call(lab, Made("pay", pause=5))

    asyncio.run(run())
    assert made.codes == ["approval_required", "done", "approval_required"]
    renamed = ASKING.replace("id: ok", "id: fine")
    more = (
        ASKING + "- {id: more, effect: permit, match: {tools: [pay]}, with: {approval: {by: ['user:eve'], ttl: 1m}}}\n"
    )
    assert [made.differ(each, "newly-forbidden") for each in (ASKING, renamed, OPEN, more)] == [[], [], [], [1]]
    assert made.differ(ASKING.replace("group:operators", "user:eve"), "newly-forbidden") == [1]
    assert made.differ(OPEN, "newly-permitted") == [0, 2]


def test_a_call_that_was_refused_after_its_yes_is_no_drift(tmp_path: Path) -> None:
    """It had a yes and no rate: the record says both."""
    made, rated = (
        Recording(tmp_path / "home"),
        ASKING.replace("ttl: 15m}", "ttl: 15m}, limit: {calls: 1/1m, key: session}"),
    )

    async def run() -> None:
        async with made.started(rated) as lab:
            ann = Principal("desk", "default", "ann", scopes=frozenset({"operator"}), token_id="k_ann")
            for amount in (1, 2):
                await made.call(lab, Made("pay", amount))
                await lab.gate.answer(ann, (await lab.gate.approvals_of(ann))[-1].id, True)
            for amount in (1, 2):
                await made.call(lab, Made("pay", amount))

    asyncio.run(run())
    assert made.codes == ["approval_required"] * 2 + ["done", "rate_limited"]
    assert made.differ(rated, "newly-forbidden") == []


def test_what_came_before_counts_and_is_not_compared(tmp_path: Path) -> None:
    """Of five calls the last two are looked at; the three before fill the cap."""
    made = recorded(tmp_path, OPEN, [Made("pay", pause=60)] * 5)
    assert made.lab is not None
    report = made.simulated(CAPPED, since=made.lab.trial.clock.at - 90)
    assert (report.calls, report.found["newly-forbidden"], report.found["drift"]) == (2, 2, 0)


def test_each_call_is_held_against_the_policy_it_was_decided_by(tmp_path: Path) -> None:
    """Two policies, one after the other, with a gateway started anew: no drift, and both compared with the third."""
    made = recorded(tmp_path, OPEN, [Made("pay", 60), Made("pay", 10)])
    asyncio.run(made.under(OPEN + NO_WAR, [Made("pay", 60), Made("pay", 10)]))
    assert made.differ(OPEN, "newly-permitted") == [2]
    assert made.differ(OPEN + NO_WAR, "newly-forbidden") == [0]


def test_drift_is_found(tmp_path: Path) -> None:
    """A record that says otherwise than its policy: here one counter forgot what the ledger knows."""
    made = recorded(tmp_path, CAPPED, [Made("pay")] * 3)
    asyncio.run(made.under(CAPPED, [Made("pay", pause=1)]))  # without what `history.py` would have brought back
    report = made.simulated(CAPPED)
    assert (made.codes[3], report.found["drift"]) == ("done", 1)
    assert next(report.lines()).startswith("4 calls in")
    assert list(report.lines())[1] == "drift: decided otherwise under the policy of then: 1"


def test_what_cannot_be_decided_again_is_counted_with_its_reason(tmp_path: Path) -> None:
    """Arguments that policy wanted off the record, and a session whose key was erased."""
    quiet = (
        OPEN.replace("'*'", "look") + "- {id: off, effect: permit, match: {tools: [pay]}, with: {record: metadata}}\n"
    )
    made = recorded(tmp_path, quiet, [Made("pay"), Made("look", session="gone"), Made("look")])
    home = made.home.path
    keys = KeyStore(home / "state.db", master_key(home))
    first = next(session for session in _sessions(home) if keys.find_session(session))
    keys.erase([first])
    keys.close()
    report = made.simulated(OPEN)
    assert (report.calls, report.same) == (3, 1)
    assert sum(report.unreplayable.values()) == report.found["not-replayable"] == 2
    assert {reason.partition(" (")[0] for reason in report.unreplayable} == {
        "its arguments are not on record",
        "its content cannot be read: its session key was erased",
    }


def test_what_was_archived_is_not_looked_at_and_that_is_said(tmp_path: Path) -> None:
    """Of five calls in segments of their own the first two are moved away; a time that does not reach there has all."""
    made = recorded(tmp_path, OPEN, [Made("pay", pause=9000)] * 5)
    assert made.lab is not None
    home, begin = made.home.path, made.lab.trial.clock.at - 4 * 9000
    (tmp_path / "elsewhere").mkdir()
    moved = archive(home, tmp_path / "elsewhere", before=begin + 2 * 9000 + 1)
    assert moved is not None
    report = made.simulated(OPEN)
    assert (report.calls, report.same, report.elsewhere) == (3, 3, moved.last + 1)
    assert report.found["not-replayable"] == report.as_json()["records_elsewhere"] == moved.last + 1
    assert list(report.lines())[-1] == f"not on record here: {moved.last + 1} records, which were archived"
    later = made.simulated(OPEN, since=begin + 3 * 9000)
    assert (later.calls, later.elsewhere) == (2, 0)


def test_what_is_none_of_a_calls_records_is_passed_over(tmp_path: Path) -> None:
    """Records of types there may be one day, of this shard and of one where reading is on record."""
    made = recorded(tmp_path, OPEN, [Made("pay")] * 2)

    async def more() -> None:
        for shard in ("w1", "r1"):
            async with opened(made.home.path, shard) as writer:
                await writer.append(Line("some.day", {"call_id": made.ids[0], "session_id": "s", "outcome": 7}))

    asyncio.run(more())
    report = made.simulated(OPEN)
    assert (report.calls, report.same, report.unreplayable.total()) == (2, 2, 0)


@asynccontextmanager
async def opened(home: Path, shard: str) -> AsyncIterator[Writer]:
    """The writer of a shard."""
    writer = open_ledger(home, shard=shard)
    yield writer
    await writer.close()


def test_a_policy_that_is_not_kept_is_a_reason(tmp_path: Path) -> None:
    """Nothing is said of the calls that it decided."""
    made = recorded(tmp_path, OPEN, [Made("pay")])
    (path,) = made.home.bundles.iterdir()
    path.unlink()
    report = made.simulated(OPEN)
    assert (report.calls, report.same, report.found["not-replayable"]) == (1, 0, 1)


def test_an_altered_ledger_is_not_gone_by(tmp_path: Path) -> None:
    """It does not verify, and the reason says which record."""
    made = recorded(tmp_path, OPEN, [Made("pay")])
    (segment,) = segments(made.home.audit / "w1")
    segment.write_bytes(segment.read_bytes().replace(b'"pay"', b'"pax"', 1))
    with pytest.raises(Unverified, match="seq="):
        made.simulated(OPEN)


@pytest.mark.parametrize("seed", range(6))
def test_the_same_policy_makes_no_difference(tmp_path: Path, seed: int) -> None:
    """Random sessions of two callers under every kind of state, rates, labels and cost: no drift, and all the same."""
    drawn = random.Random(seed)
    calls = [
        Made(
            drawn.choice(["pay", "pay", "review", "merge", "look", "nowhere"]),
            drawn.choice([1, 2, 13, 404, 99.5, 0.1]),
            drawn.choice([0, 0, 0.5, 2, 7, 40]),
            drawn.choice(["dev", "ann"]),
            drawn.choice([None, "one", "two"]),
        )
        for _ in range(250)
    ]
    made = recorded(tmp_path, ALL_KINDS, calls)
    assert {"done", "forbidden", "rate_limited", "no_permit", "unknown_tool", "upstream_error"} <= set(made.codes)
    report = made.simulated(ALL_KINDS)
    assert (report.changes, report.found["drift"]) == ([], 0)
    assert report.same == report.calls == 250


def _sessions(home: Path) -> list[str]:
    """The keys' names of all sessions on record, oldest first."""
    found = {str(record["content"]["key"]): None for record in query.records(home) if "content" in record}  # type: ignore[index, call-overload]  # a record with content
    return list(found)
