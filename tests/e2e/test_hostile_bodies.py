"""Hostile bodies against a real process: each a typed 4xx, and the process neither dies nor grows."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.served import Served, served, toolgate

CALL = "/v1/tools/run_python/call"
MIB = 1 << 20
BODIES = {
    "duplicate keys": b'{"arguments": {"code": "1", "code": "2"}}',
    "NaN": b'{"arguments": {"code": NaN}}',
    "infinity": b'{"arguments": {"code": -Infinity}}',
    "1e400": b'{"arguments": {"code": 1e400}}',
    "a number of 10,000 digits": b'{"arguments": {"code": ' + b"9" * 10_000 + b"}}",
    "lone surrogates": b'{"arguments": {"code": "\\udc00\\ud800"}}',
    "depth 10,000": b'{"arguments": ' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
    "arrays of depth 500,000": b"[" * 500_000,
    "UTF-16": '{"arguments": {"code": "1"}}'.encode("utf-16"),
    "UTF-32": '{"arguments": {"code": "1"}}'.encode("utf-32"),
    "64 MiB": b'{"arguments": {"code": "' + b"x" * (64 * MIB) + b'"}}',
    "a million keys": b'{"arguments": {' + b",".join(b'"%d":0' % n for n in range(90_000)) + b"}}",
    "control characters": b'{"arguments": {"code": "\x00"}}',
    "a comment": b'{"arguments": {"code": "1"}} // why not',
    "nothing": b"",
}


@pytest.fixture(scope="module")
def gateway(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One gateway for all bodies, so that growth adds up."""
    with served(tmp_path_factory.mktemp("hostile") / "home") as opened:
        opened.call("run_python", {"code": "print(1)"})
        yield opened


@pytest.mark.parametrize("name", BODIES)
def test_a_hostile_body_is_a_typed_problem_and_costs_no_memory(gateway: Served, name: str) -> None:
    """A 4xx problem over REST and MCP; resident memory within 64 MiB of before; the next call is served."""
    before = gateway.rss()
    for path in (CALL, "/mcp"):
        status, said = gateway.post(path, BODIES[name])
        assert 400 <= status < 500, said
        assert said.get("code") or said.get("error"), said
    assert gateway.rss() - before < 64 * MIB
    assert gateway.call("run_python", {"code": "print(2)"})[0] == 200


def test_such_a_refusal_is_on_record(gateway: Served) -> None:
    """An authenticated request that cannot be read is a refused call, found by the id it was answered with."""
    for name, code in (("NaN", "malformed"), ("depth 10,000", "malformed"), ("nothing", "malformed")):
        _, said = gateway.post(CALL, BODIES[name])
        (shown,) = json.loads(toolgate(gateway.home, "audit", "show", said["call_id"], "--json").stdout)
        assert (shown["record"]["type"], shown["record"]["outcome"]["code"]) == ("call.refused", code)
