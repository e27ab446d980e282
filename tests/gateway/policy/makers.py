"""Tools, calls and bundles for the policy tests. All real: schemas are compiled, facts derived, CEL runs."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from gateway.model import Arguments, Call, Caller, Decision, Principal, Session
from gateway.policy import PolicyBundle, load_bundle
from gateway.specs.schema import compile_schema
from gateway.tool import Backend, HttpBackend, Json, SandboxBackend, Tool

HEAD = "apiVersion: toolgate/v1\nkind: Policy\n"
SANDBOX = SandboxBackend("wasm-python", "code", None)
HTTP = HttpBackend("GET", url_argument="url")


def tool(
    name: str,
    properties: Mapping[str, Json],
    effects: Iterable[str] = ("read",),
    required: Iterable[str] = (),
    backend: Backend = HTTP,
    facts: Mapping[str, str] | None = None,
    labels: Iterable[str] = ("untrusted",),
) -> Tool:
    """A tool whose schema has these properties and no others."""
    schema = {"type": "object", "properties": dict(properties), "required": list(required)}
    check = compile_schema(schema, close=True)
    return Tool(
        name=name,
        version="1.0.0",
        digest=f"sha256:{name}",
        description=name,
        input_schema=check.schema,
        backend=backend,
        check=check,
        effects=frozenset(effects),
        facts=facts or {},
        labels=frozenset(labels),
    )


FETCH = tool(
    "fetch",
    {
        "url": {"type": "string"},
        "mode": {"type": "string"},
        "page": {"type": "object", "properties": {"number": {"type": "integer"}}},
        "to": {"type": "array", "items": {"type": "string"}},
        "price": {"type": "number"},
        "any": {},
    },
    ("egress", "read"),
    ("url",),
    facts={"url": "url", "to": "email_list"},
)
RUN = tool("run", {"code": {"type": "string"}}, ("exec",), ("code",), SANDBOX, labels=())
TOOLS = (FETCH, RUN)


def bundle(*parts: str, tools: Iterable[Tool] = TOOLS) -> PolicyBundle:
    """A bundle of parts, each given as the text below `kind: Policy`; named p0.yaml, p1.yaml …"""
    files = {f"p{number}.yaml": (HEAD + part).encode() for number, part in enumerate(parts)}
    return load_bundle(files, tuple(tools))


def call(
    called: Tool = FETCH,
    arguments: Mapping[str, Json] | None = None,
    agent: str = "dev",
    tenant: str = "default",
    user: str | None = None,
    groups: Iterable[str] = (),
    **session: object,
) -> Call:
    """A call at unix time 1000, in a session that was opened at 900."""
    principal = Principal(agent, tenant, user, frozenset(groups))
    given = {"id": "s_1", "uid": "s_1", "owner": principal.key, "opened_at": 900.0, "expires_at": 2000.0, **session}
    filled = Arguments(dict(arguments if arguments is not None else {"url": "https://a.org/"}))
    return Call("c_1", Caller(principal, Session(**given)), called, filled, 1000.0, 7)  # type: ignore[arg-type]  # fields by name, each test gives its own


def outcome(decision: Decision) -> str:
    """`permit RULE …`, or `CODE` and the rule it names."""
    if decision.problem is None:
        return f"permit {' '.join(decision.rules)}"
    return f"{decision.problem.code} {decision.problem.rule or ''}".strip()
