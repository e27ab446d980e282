"""Loading spec files: what a good set gives, what a tool's digest covers, and what one file says of another."""

import json
from pathlib import Path

import jsonschema
import pytest
import referencing

from gateway.loading import OFFERS
from gateway.specs import yaml
from gateway.specs.checks import split_template
from gateway.specs.language import schema_of
from gateway.specs.load import Specs, load_specs, skeleton
from gateway.specs.sandboxed import Offer
from gateway.specs.yaml import SpecErrors
from gateway.tool import HttpBackend, McpBackend, Rate, SandboxBackend, SecretUse, Tool
from sandboxes.offers import BACKENDS

LIMITS = BACKENDS["docker"][1]
SANDBOXES = {"wasm-python": Offer(frozenset({"no-network", "memory-cap"}), {"wall": (0.001, 300.0)})}
STARTERS = Path(__file__).parents[3] / "tool_specs"

FULL = b"""
apiVersion: toolgate/v1
kind: Tool
name: create_issue
version: 1.2.0
title: Create an issue
description: Opens an issue in one repository.
input_schema:
  type: object
  properties:
    repo: {type: string, pattern: "^[a-z0-9-]+/[a-z0-9._-]+$"}
    title: {type: string, minLength: 3}
    body: {type: string, default: ""}
  required: [repo, title]
output_schema: {type: object, properties: {number: {type: integer}}, required: [number]}
effects: [write, egress]
sinks: [repo, body]
labels: {output: [untrusted, code]}
screen: {on_failure: annotate, cut_span: false}
facts: {repo: repo_path}
cost: {per_call: 0.002}
timeout: 10s
limits: {output: 64KiB, concurrency: 8, calls: 30/1m}
tenant: acme
secrets: [{name: github_token, from: env:GITHUB_TOKEN, hosts: [api.github.com], header: "Authorization: Bearer {}"}]
runner:
  http:
    method: POST
    url: "https://api.github.com/repos/{repo}/issues?draft={body}"
    headers: {X-Title: "{title}"}
    json: {title: "{title}", nested: [{body: "{body}"}]}
cases:
- {name: needs a title, call: {repo: a/b}, expect: {refused: invalid_arguments}}
"""

SANDBOXED = b"""
apiVersion: toolgate/v1
kind: Tool
name: NAME
version: 1.0.0
description: Runs code.
input_schema: {type: object, properties: {code: {type: string}}, required: [code]}
effects: [exec]
runner: {sandbox: {backend: wasm-python, code: CODE, limits: {wall: 5s}, require: [no-network]}}
"""

MIRROR = b"""
apiVersion: toolgate/v1
kind: Tool
name: read_file
version: 1.0.0
description: Reads a file.
input_schema: {type: object}
effects: [read]
runner: {mcp: {server: files, tool: read}}
"""

SERVER = b"""
apiVersion: toolgate/v1
kind: Server
name: files
url: HTTPS://mcp.Example.org/mcp
secrets: [{name: key, from: "file:/run/secrets/key", hosts: ["*.example.org"], header: "X-Key: {}", weak: true}]
pins: {read: "sha256:0000000000000000000000000000000000000000000000000000000000000000"}
"""


def load(**files: bytes) -> Specs:
    """Load files named by their keywords; `_` before the ending stands for a dot."""
    named = {name.replace("_yaml", ".yaml").replace("_py", ".py"): raw for name, raw in files.items()}
    return load_specs(named, sandboxes=SANDBOXES)


def sandboxed(code: bytes, name: bytes = b"run_it") -> bytes:
    """A sandbox tool with other code."""
    return SANDBOXED.replace(b"NAME", name).replace(b"CODE", code)


def one(**files: bytes) -> Tool:
    """The only tool of a set."""
    (tool,) = load(**files).tools
    return tool


def sentences(**files: bytes) -> list[str]:
    """The findings of a set that is wrong."""
    with pytest.raises(SpecErrors) as caught:
        load(**files)
    return [str(finding) for finding in caught.value.findings]


def test_every_key_reaches_the_tool() -> None:
    """A full http spec gives a tool with each part in its unit."""
    tool = one(a_yaml=FULL)
    assert (tool.name, tool.version, tool.title, tool.tenant) == ("create_issue", "1.2.0", "Create an issue", "acme")
    assert (tool.timeout, tool.output_limit, tool.concurrency, tool.rate) == (10.0, 65536, 8, Rate(30, 60.0))
    assert (tool.effects, tool.labels, tool.cost) == (
        frozenset({"write", "egress"}),
        frozenset({"untrusted", "code"}),
        0.002,
    )
    assert (tool.sinks, tool.facts) == (("repo", "body"), {"repo": "repo_path"})
    assert tool.secrets == (
        SecretUse("github_token", "env:GITHUB_TOKEN", ("api.github.com",), "Authorization", "Bearer {}"),
    )
    assert tool.backend == HttpBackend(
        method="POST",
        url="https://api.github.com/repos/{repo}/issues?draft={body}",
        body={"title": "{title}", "nested": [{"body": "{body}"}]},
        headers={"X-Title": "{title}"},
    )
    assert tool.input_schema["additionalProperties"] is False
    assert tool.check.check({"repo": "a/b", "title": "abc", "x": 1})
    assert tool.check.fill({"repo": "a/b", "title": "abc"}) == {"repo": "a/b", "title": "abc", "body": ""}
    assert tool.output_check is not None
    assert tool.output_check.check({"number": 1, "more": 2}) == ()
    assert tool.output_check.check({})
    assert tool.source == "a.yaml:4"


def test_defaults_are_the_careful_ones() -> None:
    """A spec that says little is untrusted, not idempotent, 30 seconds and 256 KiB."""
    tool = one(a_yaml=sandboxed(b"{argument: code}"))
    assert (tool.labels, tool.idempotent, tool.timeout, tool.output_limit) == (
        frozenset({"untrusted"}),
        False,
        30.0,
        262144,
    )
    assert (tool.rate, tool.concurrency, tool.tenant, tool.cost) == (None, None, None, 0.0)
    assert tool.backend == SandboxBackend("wasm-python", "code", None, {"wall": 5.0}, frozenset({"no-network"}))


def test_code_stands_in_the_spec_or_in_a_file_beside_it() -> None:
    """Code from a file and the same code in the spec run alike."""
    inside = one(a_yaml=sandboxed(b'"result = 1"')).backend
    beside = one(a_yaml=sandboxed(b"{file: ./tool.py}"), tool_py=b"result = 1").backend
    assert inside == beside
    assert isinstance(inside, SandboxBackend)
    assert (inside.code, inside.code_argument) == ("result = 1", None)


def test_a_file_is_looked_for_beside_its_spec() -> None:
    """The name of a code file is relative to the folder of the spec."""
    spec = sandboxed(b"{file: code/tool.py}")
    specs = load_specs({"x/a.yaml": spec, "x/code/tool.py": b"result = 2"}, sandboxes=SANDBOXES)
    backend = specs.tools[0].backend
    assert isinstance(backend, SandboxBackend)
    assert backend.code == "result = 2"


def test_cases_carry_their_tool_and_place() -> None:
    """A spec's case names only arguments; the loaded case names the tool too."""
    (case,) = load(a_yaml=FULL).cases
    assert (case.tool, case.source) == ("create_issue", "a.yaml:33")
    assert case.shape.call == {"create_issue": {"repo": "a/b"}}


def test_a_mirrored_tool_finds_its_server() -> None:
    """A server's URL is canonical, its secret goes to hosts below a wildcard, its pin is kept."""
    specs = load(a_yaml=MIRROR, b_yaml=SERVER)
    assert specs.tools[0].backend == McpBackend("files", "read")
    server = specs.servers["files"]
    assert (server.url, server.pins) == ("https://mcp.example.org/mcp", {"read": "sha256:" + "0" * 64})
    assert server.secrets[0].weak


def test_a_server_of_another_tenant_is_not_there() -> None:
    """A tenant's server serves that tenant's tools only."""
    own = SERVER + b"tenant: acme\n"
    assert "for the tenant 'acme' only" in sentences(a_yaml=MIRROR, b_yaml=own)[0]
    load(a_yaml=MIRROR + b"tenant: acme\n", b_yaml=own)


def test_a_server_stands_once() -> None:
    """Two files may not declare one server."""
    assert "declared twice" in sentences(a_yaml=SERVER, b_yaml=SERVER)[0]


def test_the_digest_covers_meaning_and_nothing_else() -> None:
    """Comments, key order, cases and the file's name leave the digest; every other change alters it."""
    digest = one(a_yaml=FULL).digest
    assert digest.startswith("sha256:")
    assert len(digest) == 71
    same = b"# a comment\n" + FULL.replace(b"needs a title", b"title is needed").replace(
        b"{output: 64KiB, concurrency: 8", b"{concurrency: 8, output: 64KiB"
    )
    assert one(b_yaml=same).digest == digest
    for old, new in [(b"one repository", b"a repository"), (b"10s", b"11s"), (b"minLength: 3", b"minLength: 4")]:
        assert one(a_yaml=FULL.replace(old, new)).digest != digest


def test_the_digest_covers_the_code_file() -> None:
    """Other code in the file beside is another tool."""
    spec = sandboxed(b"{file: tool.py}")
    assert one(a_yaml=spec, tool_py=b"1").digest != one(a_yaml=spec, tool_py=b"2").digest


@pytest.mark.parametrize("other", [b"run_it", b"run-it"])
def test_names_are_unique(other: bytes) -> None:
    """The same name, or one that only differs by its joiner, is refused at the second file."""
    (sentence,) = sentences(a_yaml=sandboxed(b"{argument: code}"), b_yaml=sandboxed(b"{argument: code}", other))
    assert sentence.startswith("b.yaml:4:1:")
    assert "a.yaml:4" in sentence


@pytest.mark.parametrize(("one", "two"), [("mail", "rnail"), ("tool", "to0l"), ("call", "ca1l"), ("ｆetch", "fetch")])
def test_names_that_look_alike_have_one_skeleton(one: str, two: str) -> None:
    """Letters that are taken for each other fold together, and compatibility forms fold to plain letters."""
    assert skeleton(one) == skeleton(two)
    assert skeleton("read_file") != skeleton("read_files")


def test_all_findings_of_all_files_come_at_once() -> None:
    """Three mistakes in two files are three findings, in order, and nothing is loaded."""
    first = FULL.replace(b"10s", b"10").replace(b"sinks: [repo, body]", b"sinks: [rep]")
    found = sentences(a_yaml=first, b_yaml=b"a: [", c_yaml=MIRROR)
    assert [each.split(":")[0] for each in found] == ["a.yaml", "b.yaml", "c.yaml"]
    found = sentences(a_yaml=FULL.replace(b"sinks: [repo, body]", b"sinks: [rep, boddy]"))
    assert [each.split(":")[1] for each in found] == ["17", "17"]


def test_an_argument_may_be_the_url() -> None:
    """A URL from an argument goes with a list of what it may be."""
    runner = b'runner: {http: {method: GET, url: {argument: code}, allow: ["GET https://*.example.org/**"]}}'
    spec = sandboxed(b"x").split(b"runner:")[0] + runner
    backend = one(a_yaml=spec).backend
    assert backend == HttpBackend(method="GET", url_argument="code", allow=("GET https://*.example.org/**",))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("", [("", "")]),
        ("a{b}c", [("a", "b"), ("c", "")]),
        ("{a}{b}", [("", "a"), ("", "b"), ("", "")]),
        ("{", [("{", "")]),
        ("{}{ x}{a", [("{}{ x}{a", "")]),
        ("{{a}}", [("{", "a"), ("}", "")]),
        ("{a.__class__}", [("", "a.__class__"), ("", "")]),
    ],
)
def test_placeholders_are_plain_names(text: str, parts: list[tuple[str, str]]) -> None:
    """A placeholder is a name in braces; any other brace is itself."""
    assert list(split_template(text)) == parts


@pytest.mark.parametrize("kind", ["tool", "server"])
def test_the_published_schema_takes_good_files_and_refuses_others(kind: str) -> None:
    """Editors get a JSON Schema that is valid itself, fits our files and knows no other keys."""
    schema = schema_of("tool" if kind == "tool" else "server")
    jsonschema.Draft202012Validator.check_schema(schema)
    judge = jsonschema.Draft202012Validator(schema, registry=referencing.Registry())
    good = [FULL, sandboxed(b"{argument: code}"), sandboxed(b'"x"'), MIRROR] if kind == "tool" else [SERVER]
    for raw in good:
        value = yaml.load(raw, "x.yaml").value
        assert isinstance(value, dict)
        judge.validate(value)
        assert not judge.is_valid({**value, "retry": {}})
    assert json.dumps(schema)


def test_the_starter_tools_load() -> None:
    """The specs that ship with us are good ones."""
    files = {str(path): path.read_bytes() for path in STARTERS.iterdir()}
    names = {tool.name for tool in load_specs(files, sandboxes=OFFERS).tools}
    assert {"run_python", "http_fetch"} <= names


EVERYTHING = b"""
apiVersion: toolgate/v1
kind: Tool
name: report
version: 1.0.0
description: Makes a report.
input_schema:
  type: object
  properties: {code: {type: string}, files: {type: object, additionalProperties: {type: string}}}
  required: [code]
effects: [exec, egress]
secrets: [{name: key, from: env:KEY, hosts: [api.example.org], header: "Authorization: Bearer {}"}]
runner:
  sandbox:
    backend: docker
    code: {argument: code, image: python, command: [python3, -I]}
    limits: {wall: 5s, memory: 256MiB, output: 256KiB, cpu: 0.5, pids: 16, disk: 16MiB, host_calls: 8}
    network: {allow: ["GET https://api.example.org/**"]}
    tools: [report]
    files: {in: artifacts, out: 4MiB}
    require: [no-network]
"""


def test_a_sandbox_says_everything_it_needs() -> None:
    """Limits, image, network, tools and files of the spec stand in the tool as the runner gets them."""
    image = "sha256:" + "a" * 64
    (tool,) = load_specs(
        {"report.yaml": EVERYTHING}, sandboxes={"docker": Offer(frozenset({"no-network"}), LIMITS, {"python": image})}
    ).tools
    assert tool.backend == SandboxBackend(
        backend="docker",
        code_argument="code",
        code=None,
        limits={
            "wall": 5.0,
            "memory": 256 << 20,
            "output": 256 << 10,
            "cpu": 0.5,
            "pids": 16,
            "disk": 16 << 20,
            "host_calls": 8,
            "files_out": 4 << 20,
        },
        require=frozenset({"no-network"}),
        image=image,
        command=("python3", "-I"),
        tools=frozenset({"report"}),
        network=("GET https://api.example.org/**",),
        files_in=True,
    )


def test_another_image_under_the_same_name_is_another_tool() -> None:
    """The digest of a tool covers the image its spec names, so that what runs cannot change under a pin."""
    digests = set()
    for letter in "ab":
        offer = Offer(frozenset({"no-network"}), LIMITS, {"python": "sha256:" + letter * 64})
        digests |= {tool.digest for tool in load_specs({"r.yaml": EVERYTHING}, sandboxes={"docker": offer}).tools}
    assert len(digests) == 2


def test_a_tool_whose_image_is_not_here_loads() -> None:
    """A name that no image has here is no fault of the file: its calls say what is missing."""
    (tool,) = load_specs({"r.yaml": EVERYTHING}, sandboxes={"docker": Offer(frozenset({"no-network"}), LIMITS)}).tools
    assert isinstance(tool.backend, SandboxBackend)
    assert tool.backend.image == ""
