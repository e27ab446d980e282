"""Credentials that hostile backends and hostile code give away, in every form: found nowhere that anybody can look."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.hostile import MCP_PLACES, PLACES, forms, hostile_http, hostile_mcp, squeezed, traces
from tests.kit import rpc_request
from tests.served import NO_ENGINE, ROOT, TOOLGATE, Served, ready

CANARIES = {
    "env": "tg/canary-1+Env~8f3a91cc07",
    "file": "Canary.2_file/b71d=4e20ff-xx",
    "store": "canary3-STORE+00a9f7/e51b_q",
    "mcp": "mcp-canary/4+77d0e6c1b9~zz",
    "guest": "guest_canary-5/9c2e+81aa4d0f",
}
TOOL = """
apiVersion: toolgate/v1
kind: Tool
name: {name}
version: 1.0.0
description: Asks.
input_schema: {{type: object, properties: {{place: {{type: string}}, form: {{type: string}}}}, required: [place, form]}}
effects: [read]
limits: {{output: 4KiB}}
secrets:
- {{name: {name}-key, from: "{source}", hosts: [127.0.0.1], header: "X-Key: {{}}"}}
runner:
  http: {{method: GET, url: "http://127.0.0.1:{port}/{{place}}/{{form}}"}}
"""
SERVER = """
apiVersion: toolgate/v1
kind: Server
name: away
url: http://127.0.0.1:{port}/mcp
secrets:
- {{name: mcp-key, from: "env:CANARY_MCP", hosts: [127.0.0.1], header: "X-Key: {{}}"}}
"""
ECHO = """
apiVersion: toolgate/v1
kind: Tool
name: echo
version: 1.0.0
description: Says it again.
input_schema: {type: object, properties: {text: {type: string}}, required: [text]}
effects: [read]
limits: {output: 4KiB}
runner:
  mcp: {server: away, tool: echo}
"""
GUEST = """
apiVersion: toolgate/v1
kind: Tool
name: coder
version: 1.0.0
description: Runs Python that may fetch.
input_schema: {{type: object, properties: {{code: {{type: string}}}}, required: [code]}}
effects: [exec]
timeout: 60s
secrets:
- {{name: guest-key, from: "env:CANARY_GUEST", hosts: [127.0.0.1], header: "X-Key: {{}}"}}
runner:
  sandbox:
    backend: wasm-python
    code: {{argument: code}}
    tools: [env]
    network: {{allow: ["GET http://127.0.0.1:{port}/**"]}}
    files: {{out: 1MiB}}
    limits: {{host_calls: 400}}
"""
POLICY = """
apiVersion: toolgate/v1
kind: Policy
id: all
rules:
- {id: all, effect: permit, match: {tools: ["*"], agents: [dev]}}
"""
CODE = """
import os, sys
seen = [repr(dict(os.environ)), repr(sys.argv), repr(args if "args" in globals() else None)]
for path in ("/proc/self/environ", "/proc/1/environ", "/proc/self/cmdline", "/etc/passwd", "state.db", "../master.key"):
    try:
        seen.append(open(path).read())
    except Exception as error:
        seen.append(f"{path}: {error!r}")
for place in PLACES:
    for form in FORMS:
        for ask in (lambda: call("net.fetch", method="GET", url=f"http://127.0.0.1:PORT/{place}/{form}"),
                    lambda: tools.env(place=place, form=form)):
            try:
                seen.append(repr(ask()))
            except Exception as error:
                seen.append(repr(error))
everything = "\\n".join(seen)
open("seen.txt", "w").write(everything)
open("backwards.txt", "w").write(everything[::-1])
print(everything[:40000], file=sys.stderr)
print(everything)
"""


class Looked:
    """Everything anybody was shown; `add` puts one more thing to it."""

    def __init__(self) -> None:
        self.shown: list[tuple[str, bytes]] = []

    def add(self, where: str, what: object) -> None:
        """What was shown there."""
        raw = what if isinstance(what, bytes) else json.dumps(what, ensure_ascii=False).encode()
        self.shown.append((where, raw))

    def folder(self, root: Path) -> int:
        """Every file under a folder; how many."""
        files = [path for path in sorted(root.rglob("*")) if path.is_file()]
        for path in files:
            self.shown.append((str(path.relative_to(root)), path.read_bytes()))
        return len(files)

    def found(self) -> list[tuple[str, str, str]]:
        """Where a canary was found: the place, whose, in which form."""
        stems = [(name, form, stem) for name, value in CANARIES.items() for form, stem in traces(value).items()]
        met = list[tuple[str, str, str]]()
        for where, raw in self.shown:
            dense = squeezed(raw)
            met += [(where, name, form) for name, form, stem in stems if stem in dense]
        return met


def files(folder: Path, port: int, mcp: int) -> list[str]:
    """Specs and policies; the flags that serve them."""
    (folder / "canary.txt").write_text(CANARIES["file"])
    sources = {"env": "env:CANARY_ENV", "file": f"file:{folder}/canary.txt", "store": "store:canary"}
    specs = {name: TOOL.format(name=name, source=source, port=port) for name, source in sources.items()}
    specs |= {"away": SERVER.format(port=mcp), "echo": ECHO, "coder": GUEST.format(port=port)}
    for name in ("specs", "policies"):
        (folder / name).mkdir()
    for name, text in specs.items():
        (folder / "specs" / f"{name}.yaml").write_text(text)
    (folder / "policies" / "all.yaml").write_text(POLICY)
    return ["--specs", str(folder / "specs"), "--policies", str(folder / "policies")]


def environment(folder: Path) -> dict[str, str]:
    """Of a gateway that says everything it can say: every library's lines at DEBUG, whoever asked for less."""
    (folder / "loud").mkdir(exist_ok=True)
    loud = "import logging\nlogging.basicConfig(level=logging.DEBUG)\nlogging.debug('loud')\n"
    (folder / "loud" / "sitecustomize.py").write_text(loud)
    planted = {f"CANARY_{name.upper()}": CANARIES[name] for name in ("env", "mcp", "guest")}
    return {**os.environ, **NO_ENGINE, **planted, "PYTHONPATH": f"{folder / 'loud'}:{ROOT}"}


@contextmanager
def loud(folder: Path, *flags: str) -> Iterator[Served]:
    """A gateway whose standard error goes to a file beside its home."""
    command = [TOOLGATE, "serve", "--home", str(folder / "home"), "--port", "0", "--json", *flags]
    with (folder / "stderr.log").open("ab") as log:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, text=True, cwd=ROOT, env=environment(folder)
        )
        try:
            yield ready(process, folder / "home")
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def command(folder: Path, *arguments: str, given: str | None = None) -> bytes:
    """What a command says, on both of its streams."""
    done = subprocess.run(
        [TOOLGATE, *arguments, "--home", str(folder / "home")],
        input=given.encode() if given else None,
        capture_output=True,
        cwd=ROOT,
        env=environment(folder),
        timeout=120,
        check=False,
    )
    return done.stdout + done.stderr


def attack(gateway: Served, looked: Looked, port: int) -> list[str]:
    """Every call there is, over both doors; the ids of the calls."""
    calls = list[str]()
    asked = [("env", *each) for each in _each(PLACES)]
    asked += [(name, *each) for name in ("file", "store") for each in _each(("text", "error"))]
    asked.sort(key=lambda each: each[2])  # else so many errors in a row would open the backend's breaker
    http = [(tool, {"place": place, "form": form}) for tool, place, form in asked]
    mcp = [("echo", {"text": f"{place} {form}"}) for place, form in _each(MCP_PLACES)]
    code = CODE.replace("PORT", str(port)).replace("PLACES", repr(PLACES)).replace("FORMS", repr(tuple(forms(""))))
    guest = [
        ("coder", {"code": code}),
        ("coder", {"code": code.replace("print(everything)", "raise Exception(everything)")}),
    ]
    for number, (tool, arguments) in enumerate([*http, *mcp, *guest]):
        status, said = gateway.call(tool, arguments)
        assert status in (200, 502, 504), said
        calls.append(said["call_id"])
        looked.add(f"REST {tool} {number}", said)
        headers, body = rpc_request("tools/call", {"name": tool, "arguments": arguments}, modern=number % 2 == 0)
        looked.add(f"MCP {tool} {number}", gateway.post("/mcp", body, **headers)[1])
        looked.add(f"outcome {number}", gateway.get(f"/v1/calls/{said['call_id']}")[1])
    return calls


def _each(places: tuple[str, ...]) -> Iterator[tuple[str, str]]:
    return ((place, form) for place in places for form in forms(""))


def read_back(gateway: Served, folder: Path, looked: Looked) -> int:
    """The ledger with its content, page by page, over REST; how many records."""
    made = json.loads(
        command(folder, "keys", "create", "--scope", "auditor", "--agent", "eyes", "--json").splitlines()[0]
    )
    auditor, cursor, count = Served(gateway.process, gateway.home, gateway.port, made["key"]), "", 0
    while True:
        status, page = auditor.get(f"/v1/audit?content=true&limit=500{cursor}")
        assert status == 200, page
        count += len(page["records"])
        looked.add("GET /v1/audit", page)
        if page["next_cursor"] is None:
            return count
        cursor = f"&cursor={page['next_cursor']}"


def test_no_canary_is_found_anywhere(tmp_path: Path) -> None:
    """Results, outcomes, records with content, exports, artifacts, every file of the home, every line of the log."""
    looked = Looked()
    with ExitStack() as stack:
        port, mcp = stack.enter_context(hostile_http()), stack.enter_context(hostile_mcp())
        flags = files(tmp_path, port, mcp)
        looked.add("secrets set", command(tmp_path, "secrets", "set", "canary", given=CANARIES["store"]))
        with loud(tmp_path, *flags) as gateway:
            calls = attack(gateway, looked, port)
            assert read_back(gateway, tmp_path, looked) > 2 * len(calls)
            handles = {each["handle"] for call in calls for each in gateway.get(f"/v1/calls/{call}")[1]["artifacts"]}
            assert handles, "nothing was left behind, so nothing of that was looked at"
        _look_at_the_past(tmp_path, calls, flags, looked)
        assert looked.folder(tmp_path / "home") > 20
        looked.add("stderr", (tmp_path / "stderr.log").read_bytes())
    assert b"DEBUG:root:loud" in (tmp_path / "stderr.log").read_bytes()
    assert b"[redacted" in b"".join(raw for _, raw in looked.shown)
    assert looked.found() == []


def _look_at_the_past(folder: Path, calls: list[str], flags: list[str], looked: Looked) -> None:
    """What the commands show of the ledger, decrypted; a replay and a second run of the code."""
    exported = command(folder, "audit", "export", "--with-content")
    assert exported.count(b"call.outcome") > len(calls)
    looked.add("export", exported)
    looked.add("export otel", command(folder, "audit", "export", "--with-content", "--format", "ocsf"))
    looked.add("query", command(folder, "audit", "query", "--content", "--limit", "500", "--json"))
    for call in (calls[0], calls[-3], calls[-1]):
        looked.add(f"show {call}", command(folder, "audit", "show", call))
    looked.add("as case", command(folder, "audit", "export", "--as-case", calls[0]))
    looked.add("prove", command(folder, "audit", "prove", calls[0], "--reveal"))
    looked.add("rerun", command(folder, "audit", "rerun", calls[-1], *flags[:2]))
    with loud(folder, *flags, "--replay", "default") as replay:
        looked.add("replay", replay.call("env", {"place": "text", "form": "raw"})[1])


@pytest.mark.parametrize("form", forms(""))
def test_each_form_would_be_found(form: str) -> None:
    """The search finds what it looks for, in each form, also split."""
    for name, value in CANARIES.items():
        looked = Looked()
        looked.add("here", f"before {forms(value)[form]} after")
        assert {whose for _, whose, _ in looked.found()} == {name}
