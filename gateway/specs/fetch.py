"""The built-in tool `net.fetch`: what code in a sandbox calls to fetch a URL that its tool's spec allows.

No operator declares it (a dot cannot stand in their names) and nobody sees it listed: it exists only within a call of a
tool whose spec has `network`. It never sends anything; `runners/fetch.py` does.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from gateway.specs.schema import compile_schema
from gateway.strictjson import canonical
from gateway.tool import FetchBackend, Json, SandboxBackend, SecretUse, Tool

FETCH = "net.fetch"
MAX_BODY_BYTES = 1024 * 1024  # either way
_SCHEMA: Json = {
    "type": "object",
    "properties": {
        "method": {"type": "string", "enum": ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"], "default": "GET"},
        "url": {"type": "string", "minLength": 1, "maxLength": 8192},
        "headers": {
            "type": "object",
            "maxProperties": 32,
            "propertyNames": {"maxLength": 128},
            "additionalProperties": {"type": "string", "maxLength": 4096},
        },
        "body": {"type": "string", "maxLength": MAX_BODY_BYTES},
    },
    "required": ["url"],
}
_CHECK = compile_schema(_SCHEMA, close=True)


def fetch_tool(parent: Tool) -> Tool:
    """`net.fetch` as the code of `parent` has it: with the network and the credentials of that tool's spec."""
    network = parent.backend.network if isinstance(parent.backend, SandboxBackend) else ()
    return _made(network, parent.secrets, parent.timeout, parent.tenant, parent.source)


@lru_cache(maxsize=1024)
def _made(
    network: tuple[str, ...], secrets: tuple[SecretUse, ...], timeout: float, tenant: str | None, source: str
) -> Tool:
    uses: Json = [[use.name, use.source, list(use.hosts), use.header, use.template] for use in secrets]
    meaning = canonical([_SCHEMA, list(network), uses, timeout, tenant, source])
    return Tool(
        name=FETCH,
        version="1",
        digest=f"sha256:{hashlib.sha256(meaning).hexdigest()}",
        description="Fetches a URL that the calling tool's spec allows.",
        input_schema=_CHECK.schema,
        backend=FetchBackend(network),
        check=_CHECK,
        effects=frozenset({"egress", "write"}),
        sinks=("url", "headers", "body"),
        facts={"url": "url"},
        timeout=timeout,
        output_limit=2 * MAX_BODY_BYTES,
        tenant=tenant,
        secrets=secrets,
        source=source,
    )
