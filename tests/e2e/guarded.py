"""A whole gateway in this process with every kind of credential, and every kind of thing that belongs to somebody."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gateway.app import Service, open_service
from gateway.home import Home
from gateway.identity.keys import new_key
from gateway.settings import load_settings
from gateway.stores.sqlite import SqliteKeys, State
from tests.gateway.identity.idp import AUDIENCE, Idp
from tests.gateway.identity.keyserver import KeyServer, key_server
from tests.kit import Reply, ask, rpc_request

HOST = "127.0.0.1:8080"
HTTPS = "https://login.example.com"
LONG = "a line that is longer than what one result may show; " * 50
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: Looks.
{more}
input_schema: {{type: object, properties: {{}}}}
effects: [read]
limits: {{output: 1KiB}}
runner:
  http: {{method: GET, url: "http://127.0.0.1:{port}/look"}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: guarded
rules:
- {id: all, effect: permit, match: {tools: [look, theirs]}}
"""
# Whose key has which scopes. `dev` and `ops` own what is there; `twin` is another agent of their tenant.
KEYS = {
    "dev": ("dev", "default", "agent"),
    "twin": ("twin", "default", "agent"),
    "ops": ("ops", "default", "operator"),
    "eyes": ("eyes", "default", "auditor"),
    "boss": ("boss", "default", "approver"),
    "host": ("host", "default", "session:request"),
    "their dev": ("dev", "other", "agent"),
    "their ops": ("ops", "other", "operator"),
    "their eyes": ("eyes", "other", "auditor"),
    "their boss": ("boss", "other", "approver"),
}


@dataclass(frozen=True)
class Things:
    """What belongs to `dev`: ids of a session, a call in it, and what that left."""

    session: str
    call: str
    artifact: str


class Site:
    """The gateway. `known` are credentials of callers by name, `unknown` those that nobody may come in with."""

    def __init__(
        self, service: Service, upstream: KeyServer, known: Mapping[str, str], unknown: Mapping[str, str | None]
    ) -> None:
        self.service, self.known, self.unknown = service, known, unknown
        self._upstream, self._made = upstream, 0

    async def http(self, method: str, path: str, credential: str | None, body: Any = None, **headers: str) -> Reply:
        """One request. `credential` is what stands in Authorization."""
        given = {"Host": HOST, "Content-Type": "application/json", **headers}
        if credential is not None:
            given["Authorization"] = credential
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        return await ask(self.service.app, method, path, given, raw)

    async def rpc(self, method: str, params: Any, credential: str | None, *, modern: bool, **headers: str) -> Reply:
        """One JSON-RPC request."""
        spoken, body = rpc_request(method, params, modern=modern)
        return await self.http("POST", "/mcp", credential, body, **{**spoken, **headers})

    async def call(self, by: str, tool: str = "look", **headers: str) -> Reply:
        """One tool call by one of the known."""
        return await self.http("POST", f"/v1/tools/{tool}/call", self.known[by], {"arguments": {}}, **headers)

    async def things(self) -> Things:
        """Fresh ones, whose artifact nobody else has got as well."""
        self._made += 1
        self._upstream.body = f"{self._made} {LONG}".encode()
        opened = (await self.http("POST", "/v1/sessions", self.known["dev"], {})).json
        called = (await self.call("dev", **{"Toolgate-Session": opened["id"]})).json
        return Things(opened["id"], called["call_id"], called["artifacts"][0]["handle"])


def guarded(folder: Path, test: Callable[[Site], Awaitable[None]]) -> None:
    """Runs a test of such a gateway."""
    idp = Idp()
    with key_server(idp.jwks()) as keys, key_server(LONG.encode()) as upstream:
        upstream.headers["content-type"] = "text/plain"
        said = _files(folder, idp, keys.url, upstream.port)
        known, unknown = _credentials(folder / "home", idp)

        async def whole() -> None:
            settings = load_settings(said, {}, {"home": folder / "home"})
            async with open_service(settings, lambda _: None) as service:
                await test(Site(service, upstream, known, unknown))

        asyncio.run(asyncio.wait_for(whole(), 120))


def _files(folder: Path, idp: Idp, keys: str, port: int) -> Path:
    files = {
        "specs/look.yaml": SPEC.format(name="look", port=port, more=""),
        "specs/theirs.yaml": SPEC.format(name="theirs", port=port, more="tenant: other"),
        "policies/guarded.yaml": POLICY,
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    issuers = [{"iss": idp.iss, "jwks": keys, "algorithms": ["ES256"], "scope": "tools", "agent_claim": ["client_id"]}]
    said: dict[str, Any] = {"specs": str(folder / "specs"), "policies": str(folder / "policies"), "listen": HOST}
    said["identity"] = {"resource": AUDIENCE, "issuers": issuers}
    accounts = {"grant": "connect", "token_url": f"{HTTPS}/token", "authorize_url": f"{HTTPS}/go", "client_id": "us"}
    said["providers"] = {"accounts": accounts}
    (folder / "toolgate.yaml").write_text(json.dumps(said))
    return folder / "toolgate.yaml"


def _credentials(home: Path, idp: Idp) -> tuple[dict[str, str], dict[str, str | None]]:
    """What callers send, by who they are, and what none may send."""
    Home(home).make()
    now, made = time.time(), dict[str, str]()

    async def add() -> None:
        with closing(State(Home(home).state)) as state:
            store = SqliteKeys(state)
            for name, (agent, tenant, scope) in KEYS.items():
                made[name], key = new_key(agent, tenant, scope, now)
                await store.add(key)
            for name, more in (("expired", {"expires_at": now - 1}), ("revoked", {"revoked_at": now - 1})):
                made[name], key = new_key("dev", "default", "agent", now - 10)
                await store.add(replace(key, scopes=frozenset({"agent", "operator"}), **more))

    asyncio.run(add())
    dead = {name: f"Bearer {made.pop(name)}" for name in ("expired", "revoked")}
    good = made["dev"]
    known = {name: f"Bearer {secret}" for name, secret in made.items()}
    known["token"] = f"Bearer {idp.token('ES256')}"
    unknown: dict[str, str | None] = {
        "none": None,
        "empty": "",
        "no token": "Bearer ",
        "other scheme": f"Basic {good}",
        "no scheme": good,
        "malformed": "Bearer not a token at all",
        "cut short": f"Bearer {good[:-1]}",
        "unknown": f"Bearer {new_key('dev', 'default', 'operator', now)[0]}",
        "expired token": f"Bearer {idp.token('ES256', iat=now - 900, exp=now - 300)}",
        "token for another": f"Bearer {idp.token('ES256', aud='https://other.example.com')}",
        "token of nobody": f"Bearer {replace(idp, iss='https://other.example.com').token('ES256')}",
        "half a token": f"Bearer {idp.token('ES256').rpartition('.')[0]}",
        **{f"{name} key": value for name, value in dead.items()},
    }
    return known, unknown
