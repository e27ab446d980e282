"""What doctor says of callers and credentials."""

from __future__ import annotations

import asyncio
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

from gateway.audit.keystore import master_key
from gateway.doctor_identity import identity
from gateway.home import Home
from gateway.identity.keys import new_key
from gateway.identity.revocations import Revocations, new_revocation
from gateway.identity.store import SecretStore
from gateway.settings import Settings
from gateway.stores.secrets import SqliteSecrets
from gateway.stores.sqlite import SqliteKeys, State

NOW = 1_800_000_000.0
DAY = 86_400.0
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: ask
version: 1.0.0
description: Asks.
input_schema: {type: object, properties: {}}
effects: [read]
secrets:
- {name: there, from: "env:THERE", hosts: [api.example.com], header: "X-A: {}"}
- {name: missing, from: "env:MISSING", hosts: [api.example.com], header: "X-B: {}"}
- {name: no-file, from: "file:/nowhere/at/all", hosts: [api.example.com], header: "X-C: {}"}
- {name: stored, from: "store:used", hosts: [api.example.com], header: "X-D: {}"}
- {name: short, from: "store:tiny", hosts: [api.example.com], header: "X-E: {}", weak: true}
- {name: elsewhere, from: "vault:kv/a#b", hosts: [api.example.com], header: "X-F: {}"}
runner:
  http: {method: GET, url: "https://api.example.com/"}
"""
PLAIN = """
apiVersion: toolgate/v1
kind: Tool
name: plain
version: 1.0.0
description: Needs nothing.
input_schema: {type: object, properties: {}}
effects: [read]
runner:
  http: {method: GET, url: "https://api.example.com/"}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: all
rules:
- {id: all, effect: permit, match: {tools: [plain, ask]}}
"""
ENVIRON = {"THERE": "a-secret-that-nobody-is-to-see"}


def said(folder: Path, **more: Any) -> list[tuple[str, str]]:
    """State and text of each check."""
    for name, text in (("specs", PLAIN), ("policies", POLICY)):
        (folder / name).mkdir(exist_ok=True)
        (folder / name / "plain.yaml").write_text(text)
    where = {"home": folder / "home", "specs": str(folder / "specs"), "policies": str(folder / "policies")}
    checks = list(identity(Settings.model_validate({**where, **more}), NOW, ENVIRON))
    assert {check.area for check in checks} <= {"identity"}
    assert not [check for check in checks if ENVIRON["THERE"] in check.text]
    return [(check.state, check.text) for check in checks]


def made(folder: Path) -> State:
    """The state of a fresh home."""
    Home(folder / "home").make()
    return State(Home(folder / "home").state)


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    """Looking changes nothing."""
    assert said(tmp_path) == []
    assert not (tmp_path / "home").exists()


def test_issuers_that_ask_for_little_are_noted(tmp_path: Path) -> None:
    """Without a scope or roles, over http, with long tokens, or with keys that are not there."""
    good = {"iss": "https://a.example", "jwks": "https://a.example/keys", "scope": "tools", "roles": {"auditor": ["a"]}}
    resource = "https://gateway.example.com/mcp"
    assert said(tmp_path, identity={"resource": resource, "issuers": [good]}) == []
    bad = {"iss": "https://b.example", "jwks": "http://127.0.0.1:1/keys", "max_lifetime": "72h"}
    gone = {"iss": "corp.example", "kind": "spiffe", "jwks": f"file:{tmp_path}/none.json"}
    found = said(tmp_path, identity={"resource": resource, "issuers": [bad, gone]})
    assert [state for state, _ in found] == ["note", "note", "note", "note", "bad", "note"]
    for words, (_, text) in zip(
        ("over http", "72h", "no scope", "no group", "cannot be read", "one caller"), found, strict=True
    ):
        assert words in text


def test_keys_that_are_old_or_for_ever_are_noted(tmp_path: Path) -> None:
    """By id, agent and scope; a key that calls tools and rules over them is bad."""
    with closing(made(tmp_path)) as state:
        keys = SqliteKeys(state)

        async def fill() -> None:
            old, young = NOW - 91 * DAY, NOW - DAY
            for agent, scope, at, expires in (
                ("gone", "agent", young, NOW - 1),
                ("fine", "agent", young, NOW + DAY),
                ("ops", "operator", old, NOW + DAY),
                ("ever", "auditor", old, None),
            ):
                await keys.add(new_key(agent, "default", scope, at, expires_at=expires)[1])
            _, both = new_key("both", "default", "agent", young, expires_at=NOW + DAY)
            await keys.add(replace(both, scopes=frozenset({"agent", "operator"})))
            _, dead = new_key("dead", "default", "operator", old)
            await keys.add(replace(dead, revoked_at=NOW - 1))

        asyncio.run(fill())
    found = said(tmp_path)
    assert ("ok", "4 API keys are in force") in found
    assert ("note", "1 API keys have expired and were never revoked") in found
    texts = {state: [text for each, text in found if each == state] for state in ("note", "bad")}
    assert any("never expire" in text and "(ever, auditor)" in text for text in texts["note"])
    assert [text for text in texts["note"] if "(ops) is 91 days old" in text]
    assert len(texts["bad"]) == 1
    assert "(both)" in texts["bad"][0]
    assert "dead" not in str(found)


def test_what_is_revoked_is_noted_until_it_is_lifted(tmp_path: Path) -> None:
    """So that nobody wonders why an agent is refused."""
    with closing(made(tmp_path)) as state:
        revocations = Revocations(state)
        first = new_revocation({"agent": "a"}, "why", {}, NOW, earlier=False)
        revocations.add(first)
        revocations.add(new_revocation({"agent": "b"}, "why", {}, NOW, earlier=False))
        revocations.lift(first.id, {}, NOW)
    assert [text for _, text in said(tmp_path) if "1 revocations are in force" in text]


def test_secrets_that_cannot_be_used_or_are_of_no_use_are_named(tmp_path: Path) -> None:
    """Where a spec names them; those of other machines are not asked for."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "ask.yaml").write_text(SPEC)
    with closing(made(tmp_path)) as state:
        store = SecretStore(SqliteSecrets(state), master_key(tmp_path / "home"))
        for name in ("used", "tiny", "spare", "for-provider"):
            store.put("", name, "kept-kept-kept-kept", NOW)
    provider = {"grant": "client_credentials", "token_url": "https://a.example/token", "client_id": "toolgate"}
    found = said(tmp_path, providers={"a": {**provider, "client_secret": "store:for-provider"}})
    about = [(state, text) for state, text in found if "tool ask" in text or "kept" in text]
    assert [state for state, _ in about] == ["note", "bad", "note", "note"]
    for words, (_, text) in zip(("credential missing", "credential no-file", "weak", "spare"), about, strict=True):
        assert words in text
    assert "used" not in about[-1][1].replace("secrets that are kept and that nothing names", "")


def test_specs_that_do_not_load_are_left_to_check(tmp_path: Path) -> None:
    """One line, not a traceback."""
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "ask.yaml").write_text("kind: Nothing")
    assert [text for _, text in said(tmp_path) if "toolgate check" in text]


def test_providers_that_are_loose_are_noted(tmp_path: Path) -> None:
    """Tokens that cannot be taken back, answers that are not told apart, pages that nobody reaches."""
    there = {"grant": "connect", "token_url": "https://p.example/t", "authorize_url": "https://p.example/a"}
    bare = said(tmp_path, providers={"p": {**there, "client_id": "c"}})
    assert ["no revoke_url" in bare[0][1], "RFC 9207" in bare[1][1], len(bare)] == [True, True, 2]
    whole = {**there, "client_id": "c", "issuer": "https://p.example", "revoke_url": "https://p.example/r"}
    site = {"identity": {"resource": "https://gw.example.com/mcp"}, "listen": "0.0.0.0:8080"}
    ((state, text),) = said(tmp_path, providers={"p": whole}, **site)
    assert (state, "not among hosts" in text) == ("bad", True)
    assert said(tmp_path, providers={"p": whole}, hosts=["gw.example.com"], **site) == []
