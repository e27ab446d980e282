"""A gateway with providers of every grant, the authorization server they are, and a backend that checks each token."""

from __future__ import annotations

import http.client
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

from tests.e2e.upstream import Quiet
from tests.gateway.identity.authstate import SECRET, AuthServer, read
from tests.served import Served, served, toolgate

GRANTS = {"own": "client_credentials", "fixed": "refresh_token", "swapped": "token_exchange", "mine": "connect"}
SPEC = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: Acts with a token of {provider}.
input_schema: {{type: object, properties: {{who: {{type: string}}}}, required: [who]}}
effects: [write]
secrets:
- {{name: {provider}, from: "oauth:{provider}", hosts: [127.0.0.1], header: "Authorization: Bearer {{}}"}}
runner:
  http: {{method: POST, url: "http://127.0.0.1:{port}/{path}", json: {{who: "{{who}}"}}}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: granted
rules:
- {id: all, effect: permit, match: {tools: ["*"]}}
"""


@dataclass(frozen=True)
class Seen:
    """A request at the backend: for whom it should be, whose token came, the token."""

    who: str
    owner: str | None
    token: str


@dataclass
class Backend:
    """It takes tokens of one server, for itself, that were not revoked; `/leak` says back what it was sent."""

    server: AuthServer
    port: int = 0
    seen: list[Seen] = field(default_factory=list)

    def owner(self, token: str) -> str | None:
        """The subject of a token that is good here."""
        claims = read(token)
        if claims is None or claims["aud"] != "backend" or claims["iss"] != self.server.url:
            return None
        known = self.server.owner(token)
        return known if known == claims["sub"] else None


@contextmanager
def checking_backend(server: AuthServer) -> Iterator[Backend]:
    """Serves on a free port until the end."""
    backend = Backend(server)

    class Answer(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            who = json.loads(self.rfile.read(int(self.headers["content-length"])))["who"]
            token = self.headers.get("authorization", "").removeprefix("Bearer ")
            owner = backend.owner(token)
            backend.seen.append(Seen(who, owner, token))
            said = {"sub": owner} | ({"heard": token, "turned": token[::-1]} if self.path == "/leak" else {})
            body = json.dumps(said).encode()
            self.send_response(401 if owner is None else 200)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    listening = Quiet(("127.0.0.1", 0), Answer)
    listening.daemon_threads = True
    backend.port = listening.server_address[1]
    thread = threading.Thread(target=listening.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield backend
    finally:
        listening.shutdown()
        listening.server_close()


@dataclass(frozen=True)
class Reply:
    """An HTTP answer."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass
class Site:
    """All of it. `refresh` is the operator's refresh token as the settings have it."""

    folder: Path
    server: AuthServer
    backend: Backend
    refresh: str = ""
    gateway: Served | None = None

    @contextmanager
    def up(self, *flags: str) -> Iterator[Served]:
        """The gateway runs."""
        env = {"CLIENT_SECRET": SECRET, "REFRESH": self.refresh}
        with served(self.folder / "home", "--config", str(self.folder / "toolgate.yaml"), *flags, env=env) as gateway:
            self.gateway = gateway
            yield gateway

    def key(self, agent: str, user: str | None = None, tenant: str = "default", scope: str = "agent") -> str:
        """A new API key."""
        flags = ["--agent", agent, "--tenant", tenant, "--scope", scope, *(["--user", user] if user else [])]
        made = toolgate(self.folder / "home", "keys", "create", *flags, "--json")
        assert made.returncode == 0, made.stderr
        key: str = json.loads(made.stdout)["key"]
        return key

    def ask(self, method: str, path: str, key: str | None = None, body: Any = None, **more: str) -> Reply:
        """One request to the gateway, redirects not followed. A text is a form."""
        assert self.gateway is not None
        return ask(self.gateway.port, method, path, key, body, **more)

    def call(self, tool: str, who: str, key: str, session: str | None = None) -> Reply:
        """One call over REST."""
        more = {} if session is None else {"Toolgate-Session": session}
        return self.ask("POST", f"/v1/tools/{tool}/call", key, {"arguments": {"who": who}}, **more)

    def records(self, *kinds: str) -> list[dict[str, Any]]:
        """Records of these types, oldest first."""
        files = sorted((self.folder / "home" / "audit").rglob("*.jsonl"))
        found = [json.loads(line) for file in files for line in file.read_bytes().splitlines() if line[:1] == b"{"]
        return [each for each in found if each["type"] in kinds]

    def stored(self, *texts: str) -> list[str]:
        """Files of the home in which one of the texts stands."""
        home = self.folder / "home"
        files = [path for path in home.rglob("*") if path.is_file()]
        return [str(path) for path in files if any(text.encode() in path.read_bytes() for text in texts)]


def ask(port: int, method: str, path: str, key: str | None = None, body: Any = None, **more: str) -> Reply:
    """One request to this machine, redirects not followed. A text is sent as a form, all else as JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    form = isinstance(body, str)
    headers = {"Content-Type": "application/x-www-form-urlencoded" if form else "application/json"}
    headers |= {"Accept": "application/json, text/event-stream"} | {n.replace("_", "-"): v for n, v in more.items()}
    if key is not None:
        headers["Authorization"] = f"Bearer {key}"
    try:
        connection.request(method, path, body if form or body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        told = {name.lower(): value for name, value in answer.getheaders()}
        return Reply(answer.status, told, answer.read())
    finally:
        connection.close()


def make_site(folder: Path, server: AuthServer, backend: Backend, **providers: Mapping[str, Any]) -> Site:
    """Writes settings, specs and a policy: a tool `act_NAME` for each provider. `providers` changes members of one."""
    site = Site(folder, server, backend, server.refresh_token("operator"))
    said: dict[str, Any] = {}
    for name, grant in GRANTS.items():
        more: dict[str, Any] = {"refresh_token": "env:REFRESH"} if name == "fixed" else {}
        more |= {"audience": "backend"} if name == "swapped" else {"scopes": ["act"]} if name == "mine" else {}
        said[name] = server.provider(grant, **more, **providers.get(name, {}))
    for kind in ("specs", "policies"):
        (folder / kind).mkdir()
    for name in GRANTS:
        spec = {"provider": name, "port": backend.port}
        (folder / "specs" / f"act_{name}.yaml").write_text(SPEC.format(name=f"act_{name}", path="act", **spec))
    for number in (1, 2):
        more_of_own = {"provider": "own", "port": backend.port, "path": "leak"}
        (folder / "specs" / f"leak{number}.yaml").write_text(SPEC.format(name=f"leak{number}", **more_of_own))
    (folder / "policies" / "granted.yaml").write_text(POLICY)
    issuer = {"iss": server.url, "jwks": f"{server.url}/keys", "audience": ["gateway"], "algorithms": ["ES256"]}
    settings = {"specs": str(folder / "specs"), "policies": str(folder / "policies"), "providers": said}
    (folder / "toolgate.yaml").write_text(json.dumps(settings | {"identity": {"issuers": [issuer]}}))
    return site
