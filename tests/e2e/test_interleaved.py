"""Ten thousand calls of two people at once, of whom one disconnects on the way: whose token reaches the backend."""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from pathlib import Path

from tests.e2e.browsing import Browser
from tests.e2e.granted import Site, checking_backend, make_site
from tests.gateway.identity.authserver import auth_server
from tests.gateway.identity.authstate import read
from tests.served import Wire

CALLS, WIRES = 10_000, 16


class Load:
    """Calls of two people over many connections. After half of them Ann disconnects."""

    def __init__(self, site: Site, keys: dict[str, str]) -> None:
        self.site, self.keys = site, keys
        self.left, self.answers = CALLS, Counter[tuple[str, str]]()
        self.begun = self.ended = 0
        self.over = asyncio.Event()
        self.until = 0  # calls of Ann's that had begun when she was told that she is disconnected

    async def run(self) -> None:
        """All of it."""
        people = [who for who in self.keys for _ in range(WIRES // len(self.keys))]
        await asyncio.gather(self._disconnect(), *map(self._calls, people))

    async def _calls(self, who: str) -> None:
        assert self.site.gateway is not None
        wire = await Wire.to(replace(self.site.gateway, key=self.keys[who]))
        while self.left > 0:
            self.left -= 1
            if self.left == CALLS // 2:
                self.over.set()
            self.begun += who == "ann"
            status, said = await wire.call("act_mine", {"who": who})
            code = said.get("code", "done") if status != 200 else said["result"]["structured_content"]["sub"]
            self.answers[who, code or ""] += 1
        wire.close()

    async def _disconnect(self) -> None:
        await self.over.wait()
        reply = await asyncio.to_thread(self.site.ask, "DELETE", "/v1/connections/mine", self.keys["ann"])
        self.until = self.begun
        assert reply.status == 200


def test_no_call_carries_anothers_token_or_a_dropped_one(tmp_path: Path) -> None:
    """Counted where calls arrive: Bob's are all Bob's, Ann's are Ann's and none began after she was disconnected."""
    with auth_server() as server, checking_backend(server) as backend:
        site = make_site(tmp_path, server, backend)
        with site.up():
            keys = {who: site.key("bot", who) for who in ("ann", "bob")}
            for who, key in keys.items():
                link = site.ask("POST", "/v1/connections/mine", key).json["url"]
                assert Browser(who).connect(link).status == 200
            load = Load(site, keys)
            asyncio.run(load.run())
    arrived = Counter((seen.who, (read(seen.token) or {})["sub"]) for seen in backend.seen)
    assert set(arrived) == {("ann", "ann"), ("bob", "bob")}
    assert sum(load.answers.values()) == CALLS
    assert arrived["bob", "bob"] == load.answers["bob", "bob"] > CALLS // 4
    assert 0 < arrived["ann", "ann"] <= load.until
    assert load.answers["ann", "account_required"] > 1000
    known = {("bob", "bob"), ("ann", "ann"), ("ann", "account_required"), ("ann", "upstream_unreachable"), ("ann", "")}
    assert set(load.answers) <= known
    assert len({seen.token for seen in backend.seen}) == 2
