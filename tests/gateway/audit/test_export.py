"""Records for other systems: every call once, in the shape that its standard asks for, content only when asked for."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gateway.audit import query
from gateway.audit.keystore import KeyStore, master_key
from gateway.audit.ledger import open_ledger
from gateway.model import Failure, Principal, RawOutput, Session
from gateway.ports import Line
from gateway.problems import problem
from gateway.tool import HttpBackend
from gateway.upkeep import LedgerUpkeep
from gateway.work import Work
from tests.gateway.cli.project import run
from tests.gateway.test_state_line import HEAD, SPECS
from tests.kit import Lab

SECRET = "said by nobody else"
RULES = """
state:
  paid: {sum: args.amount, of: {tools: [pay]}, within: 24h, over: user}
  reviewed: {formerly: {tools: [review]}, same: args.pr, within: 1h}
rules:
- {id: pay-ok, effect: permit, match: {tools: [pay], agents: [dev]}}
- {id: cap, effect: forbid, match: {tools: [pay]}, when: [state.paid + args.amount > 10.0]}
- {id: review-ok, effect: permit, match: {tools: [review]}}
- {id: merge-ok, effect: permit, match: {tools: [merge]}, when: [state.reviewed]}
- {id: tainted, effect: forbid, match: {tools: [merge]}, when: ['"marked" in session.labels', session.calls > 2]}
"""
TEXTS = SPECS["review.yaml"].replace("    pr: {type", "    text: {type: string}\n    pr: {type")
CALLS = (
    ("pay", {"amount": 6}),
    ("review", {"pr": 7, "text": f'{SECRET} "\\ \u202e\U0001f600\n: # null'}),
    ("merge", {"pr": 7}),
    ("pay", {"amount": 5}),
    ("merge", {"pr": 8}),
    ("pay", {"amount": 0.25}),
    ("pay", {"amount": "much"}),
    ("nothing", {}),
    ("review", {"pr": 13}),
)


class Told:
    """A runner that answers, and breaks for pull request 13."""

    async def run(self, work: Work) -> RawOutput:
        if work.arguments["pr"] == 13:
            raise Failure(problem("upstream_error", "It broke."))
        return RawOutput(f"done: {SECRET}")


def lived(home: Path, calls: Sequence[tuple[str, dict[str, Any]]] = CALLS, labels: frozenset[str] = frozenset()) -> Any:
    """A home with these calls on record, a minute apart, and a folder of the files they were made under."""
    files = {**SPECS, "review.yaml": TEXTS}
    policy = HEAD + RULES
    for folder, texts in (("tool_specs", files), ("policies", {"lab.yaml": policy})):
        (home.parent / folder).mkdir(exist_ok=True)
        for name, text in texts.items():
            (home.parent / folder / name).write_text(text)

    async def live() -> list[str]:
        lab = Lab.of(files, {"lab.yaml": policy})
        lab.trial.authority.principals["dev"] = Principal("dev", "default", "ann", scopes=frozenset({"agent"}))
        ledger = open_ledger(home, clock=lab.trial.clock.now)
        lab.gate = replace(lab.gate, ledger=ledger, runners={HttpBackend: Told()})
        now, owner = lab.trial.clock.at, lab.trial.authority.principals["dev"].key
        lab.trial.sessions.put(Session("default", "u_1", owner, now - 5, now + 3600, labels))
        made = []
        for tool, arguments in calls:
            made.append((await lab.call(tool, arguments)).call_id)
            lab.trial.clock.at += 60.0
        await ledger.close()
        return made

    return asyncio.run(live())


def exported(capsys: pytest.CaptureFixture[str], home: Path, *flags: str) -> list[Any]:
    """The objects that the command prints, one a line."""
    code, out, err = run(capsys, "audit", "export", "--home", home, *flags)
    assert (code, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_json_lines_are_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All of them in order, as in the log, without what is sealed; with content, that in the clear."""
    home = tmp_path / "home"
    lived(home)
    records = list(query.records(home))
    bare = [{name: value for name, value in record.items() if name != "content"} for record in records]
    assert exported(capsys, home) == bare
    assert exported(capsys, home, "--since", "1h") == []
    whole = exported(capsys, home, "--with-content")
    assert [{name: value for name, value in record.items() if name != "content"} for record in whole] == bare
    assert SECRET in json.dumps(whole)
    assert [record.get("content") is None for record in whole] == ["content" not in record for record in records]


@pytest.mark.parametrize("kind", ["jsonl", "ocsf", "cloudevents"])
def test_content_is_exported_only_when_asked_for(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither in the clear nor sealed; and what was erased is said to be, in every format."""
    home = tmp_path / "home"
    lived(home)
    bare = json.dumps(exported(capsys, home, "--format", kind))
    assert SECRET not in bare
    assert '"box"' not in bare
    assert json.dumps(exported(capsys, home, "--format", kind, "--with-content")).count(SECRET) >= 2
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        keys.erase(["u_1"])
    erased = json.dumps(exported(capsys, home, "--format", kind, "--with-content"))
    assert SECRET not in erased
    assert erased.count("its session key was erased") >= len(CALLS)


def test_an_ocsf_event_for_each_call(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """API Activity with every attribute the class requires, in its own enumerations; status as it was."""
    home = tmp_path / "home"
    made = lived(home)
    events = exported(capsys, home, "--format", "ocsf")
    assert [event["metadata"]["correlation_uid"] for event in events] == made
    for event in events:
        assert (event["class_uid"], event["category_uid"], event["activity_id"], event["type_uid"]) == (
            6003,
            6,
            99,
            600399,
        )
        assert event["severity_id"] in range(7)
        assert event["metadata"]["version"] == "1.3.0"
        assert event["metadata"]["product"]["name"] == event["metadata"]["product"]["vendor_name"] == "Toolgate"
        assert event["actor"] == {
            "app_name": "dev",
            "session": {"uid": "default"},
            "user": {"name": "ann", "type_id": 1, "groups": []},
        }
        assert event["src_endpoint"] == {"name": "dev"}
        assert event["api"]["request"]["uid"] == event["metadata"]["correlation_uid"]
    assert [event["api"]["operation"] for event in events] == [tool for tool, _ in CALLS]
    assert [event["status_id"] for event in events] == [1, 1, 1, 2, 2, 1, 2, 2, 2]
    assert [event["action_id"] for event in events] == [1, 1, 1, 2, 2, 1, 2, 2, 1]
    codes = ["forbidden", "no_permit", "invalid_arguments", "unknown_tool", "upstream_error"]
    assert [event["status_code"] for event in events if "status_code" in event] == codes
    assert events[0]["time"] == events[0]["start_time"] == 1_767_225_600_000
    assert [each["policy"]["name"] for each in events[0]["authorizations"]] == ["pay-ok"]
    assert events[3]["authorizations"][0]["decision"] == "forbid"
    assert [each["policy"]["name"] for each in events[3]["authorizations"]] == ["cap"]
    assert "authorizations" not in events[6]


def test_a_doubt_and_what_was_said_of_it_are_events_of_their_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of unknown status and medium severity first, then as the operator said, with what the intent says of the call."""
    home = tmp_path / "home"
    made = lived(home, CALLS[:1])
    asked = next(record for record in query.records(home) if record["type"] == "call.intent")
    copied = {name: asked[name] for name in ("session_id", "tenant", "principal", "tool", "decision", "opened_at")}

    async def settle() -> None:
        ledger = open_ledger(home)
        await ledger.append(Line("call.intent", {"call_id": "c_cut", **copied}))
        await ledger.close()
        ledger = open_ledger(home)
        await LedgerUpkeep(home, ledger).resolve("c_cut", "not-done", "Nothing was sent.", {"authn": "local"})
        await ledger.close()

    asyncio.run(settle())
    events = exported(capsys, home, "--format", "ocsf")
    assert [event["metadata"]["correlation_uid"] for event in events] == [*made, "c_cut", "c_cut"]
    assert [(event["status_id"], event["severity_id"]) for event in events] == [(1, 1), (0, 3), (2, 2)]
    for event in events:
        assert (event["api"]["operation"], event["actor"]["user"]["name"]) == ("pay", "ann")
        assert event["authorizations"][0]["policy"]["name"] == "pay-ok"


def test_cloud_events(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Structured JSON with the four required attributes; source and id together name a record of one gateway."""
    home = tmp_path / "home"
    made = lived(home)
    events = exported(capsys, home, "--format", "cloudevents")
    records = list(query.records(home))
    assert len(events) == len(records)
    gateway = records[0]["gateway"]
    for event, record in zip(events, records, strict=True):
        assert (event["specversion"], event["datacontenttype"]) == ("1.0", "application/json")
        assert event["source"] == f"/gateways/{gateway}/audit/w1"
        assert (event["id"], event["time"]) == (f"w1:{record['seq']}", record["ts"])
        assert event["data"]["type"] == record["type"]
    kinds = {(event["data"]["type"], event["type"]) for event in events}
    assert kinds == {
        ("log.opened", "dev.toolgate.log.opened.v1"),
        ("call.intent", "dev.toolgate.call.started.v1"),
        ("call.outcome", "dev.toolgate.call.completed.v1"),
        ("call.refused", "dev.toolgate.call.completed.v1"),
        ("log.closed", "dev.toolgate.log.closed.v1"),
    }
    assert [event["subject"] for event in events if event["type"] == "dev.toolgate.call.completed.v1"] == made


def test_a_time_that_is_none_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With the way one is written."""
    home = tmp_path / "home"
    lived(home, CALLS[:1])
    code, _, err = run(capsys, "audit", "export", "--home", home, "--since", "week")
    assert (code, "7d" in err) == (2, True)


def as_case(capsys: pytest.CaptureFixture[str], home: Path, call_id: str) -> tuple[Path, str]:
    """The file of a call's case, beside the specs and policies it was made under, and its text."""
    code, out, err = run(capsys, "audit", "export", "--home", home, "--as-case", call_id)
    assert (code, err) == (0, "")
    file = home.parent / f"{call_id}.yaml"
    file.write_text(out)
    return file, out


@pytest.mark.parametrize("number", range(len(CALLS)))
def test_a_call_as_a_case_holds_under_its_policy(
    number: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Permitted by a past, refused for one, refused before policy: each is told so that it comes out again."""
    home = tmp_path / "home"
    made = lived(home)
    file, text = as_case(capsys, home, made[number])
    code, out, err = run(capsys, "test", file)
    assert (code, out, err) == (0, "1 case: 1 passed, 0 failed\n", "")
    expected = ["pay-ok", "review-ok", "merge-ok", "cap", "no_permit", "pay-ok", "invalid_arguments", "unknown_tool"]
    assert f'"{[*expected, "review-ok"][number]}"' in text


def test_the_past_of_a_case_is_what_its_decision_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Calls that were refused, or are of something else, are left out; without the past the case fails."""
    home = tmp_path / "home"
    made = lived(home)
    file, text = as_case(capsys, home, made[3])
    assert text.count("ago:") == 1
    assert 'ago: "180000ms"' in text
    lines = text.splitlines(keepends=True)
    begin = next(number for number, line in enumerate(lines) if line.strip() == "history:")
    end = next(number for number, line in enumerate(lines) if line.strip().startswith("call:") and number > begin + 4)
    file.write_text("".join(lines[:begin] + lines[end:]))
    code, out, _ = run(capsys, "test", file)
    assert (code, "0 passed, 1 failed" in out) == (1, True)


def test_a_case_has_the_session_as_it_was(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Its labels and the number of calls before, on which a rule stands."""
    home = tmp_path / "home"
    calls = [CALLS[1], CALLS[1], CALLS[1], CALLS[2]]
    made = lived(home, calls, frozenset({"marked"}))
    file, text = as_case(capsys, home, made[-1])
    assert '"tainted"' in text
    assert run(capsys, "test", file)[0] == 0


def test_what_no_case_can_tell_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An unknown call, and one whose arguments were erased."""
    home = tmp_path / "home"
    made = lived(home, CALLS[:1])
    code, out, err = run(capsys, "audit", "export", "--home", home, "--as-case", "c_unknown")
    assert (code, out, err) == (1, "", "toolgate: no record of c_unknown\n")
    with closing(KeyStore(home / "state.db", master_key(home))) as keys:
        keys.erase(["u_1"])
    code, out, err = run(capsys, "audit", "export", "--home", home, "--as-case", made[0])
    assert (code, out, "its session key was erased" in err) == (1, "", True)
