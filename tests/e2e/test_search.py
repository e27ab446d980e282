"""The ledger of a running gateway, read through it by an auditor and beside it by the command line."""

from __future__ import annotations

import http.client
import json
from pathlib import Path
from typing import Any

from tests.served import Served, served, toolgate


def read(gateway: Served, key: str, query: str = "") -> tuple[int, Any]:
    """One `GET /v1/audit` by that key."""
    connection = http.client.HTTPConnection("127.0.0.1", gateway.port, timeout=30)
    try:
        connection.request("GET", f"/v1/audit{query}", headers={"Authorization": f"Bearer {key}"})
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())
    finally:
        connection.close()


def test_an_auditor_and_the_command_line_read_the_same_records(tmp_path: Path) -> None:
    """Page and command agree; an agent is refused; a reading of content is a record that the command finds."""
    home = tmp_path / "home"
    with served(home) as gateway:
        keys = {
            name: json.loads(toolgate(home, "keys", "create", "--scope", name, "--agent", name, "--json").stdout)["key"]
            for name in ("auditor", "operator")
        }
        status, refused = gateway.call("http_fetch", {"url": "https://example.org/"})
        assert (status, refused["code"]) == (403, "no_permit")
        assert read(gateway, gateway.key)[0] == 403
        assert read(gateway, "tg_auditor_unknown")[0] == 401
        assert gateway.post("/v1/sessions", b"{}", Authorization=f"Bearer {keys['auditor']}")[0] == 403
        for key in keys.values():
            status, page = read(gateway, key, f"?call={refused['call_id']}")
            assert (status, page["records"][0]["record"]["type"]) == (200, "call.refused")
        told = json.loads(toolgate(home, "audit", "query", "--call", refused["call_id"], "--json").stdout)
        assert told == page
        status, opened = read(gateway, keys["auditor"], "?code=no_permit&content=true")
        assert (status, opened["records"][0]["content"]["arguments"]["url"]) == (200, "https://example.org/")
        found = toolgate(home, "audit", "query", "--type", "admin.read", "--json")
    (said,) = json.loads(found.stdout)["records"]
    assert (said["record"]["principal"]["agent"], said["record"]["count"]) == ("auditor", 1)
    assert toolgate(home, "audit", "verify").returncode == 0
