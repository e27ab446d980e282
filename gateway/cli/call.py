"""`toolgate call`: one call through a running gateway, as any client would make it."""

from __future__ import annotations

import http.client
import json
import os
import sys
from argparse import ArgumentParser
from typing import Any
from urllib.parse import quote, urlsplit

from gateway.audit.text import printable
from gateway.cli.common import Arguments, Verbs, home_of

_TIMEOUT = 330.0  # seconds; longer than any tool may take


def add(verbs: Verbs, common: ArgumentParser) -> None:
    """Adds the verb."""
    verb = verbs.add_parser("call", parents=[common], help="one call through a running gateway")
    verb.add_argument("tool")
    verb.add_argument("arguments", nargs="?", default="{}", help='JSON, for example \'{"code": "print(2 + 2)"}\'')
    verb.add_argument("--session", help="session to call in")
    verb.add_argument("--idempotency-key", help="the same key again is the same call, made once")
    verb.add_argument("--url", help="gateway to call (default: the one started from this home)")
    verb.add_argument("--key", help="API key; better given as TOOLGATE_KEY (default: the local agent's)")
    verb.set_defaults(run=run)


def run(arguments: Arguments) -> int:
    """Prints the result's text, or what was refused. Exit 0 done, 1 refused or failed."""
    url, key = _where(arguments)
    try:
        parsed = json.loads(arguments.arguments)
    except ValueError as error:
        print(f"toolgate: the arguments are not JSON: {error}", file=sys.stderr)
        return 2
    headers = {"Content-Type": "application/json"}
    optional = (("Authorization", key and f"Bearer {key}"), ("Toolgate-Session", arguments.session))
    for name, value in (*optional, ("Idempotency-Key", arguments.idempotency_key)):
        if value:
            headers[name] = value
    try:
        status, said = post(url, f"/v1/tools/{quote(arguments.tool, safe='')}/call", {"arguments": parsed}, headers)
    except (OSError, ValueError) as error:
        print(f"toolgate: no gateway answers at {url}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(said) if arguments.json else _shown(_text(said)))
    return 0 if status == 200 and said.get("status") == "done" else 1


def _where(arguments: Arguments) -> tuple[str, str | None]:
    key = arguments.key or os.environ.get("TOOLGATE_KEY")
    if arguments.url:
        return arguments.url, key
    known = home_of(arguments).read_credentials()
    url, dev = known or ("http://127.0.0.1:8080", None)
    return url, key or dev


def post(url: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """One POST to a gateway, as `ask`."""
    return ask(url, "POST", path, body, headers)


def ask(url: str, method: str, path: str, body: Any, headers: dict[str, str]) -> tuple[int, dict[str, Any]]:
    """One request to a gateway: status and what it says. Raises `OSError`, and `ValueError` when it is not JSON.

    A `body` of None is none.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=_TIMEOUT)
    try:
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        answer = connection.getresponse()
        said = json.loads(answer.read())
        return answer.status, said if isinstance(said, dict) else {}
    except http.client.HTTPException as error:
        raise ConnectionError(f"what answers is no gateway: {type(error).__name__}") from error
    finally:
        connection.close()


def _shown(text: str) -> str:
    """Lines and tabs stay; what else would move or colour a terminal is spelled out (`--json` has it as it came)."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def _text(said: dict[str, Any]) -> str:
    if "result" in said:
        return "\n".join(str(block["text"]).rstrip("\n") for block in said["result"]["content"])
    parts = [f"refused: {said.get('title')} ({said.get('code')})", str(said.get("detail", "")), str(said.get("advice"))]
    return "\n".join(part for part in parts if part and part != "None")
