"""Idempotency keys raced over two real gateways with one real Redis (`make prove` races 11,000 of them)."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from tests.e2e.racing import broken, effects, race, side_by_side
from tests.e2e.upstream import counting_upstream
from tests.redisserver import RedisServer


def test_no_key_has_two_effects_though_a_gateway_is_killed(redis_server: RedisServer, tmp_path: Path) -> None:
    """200 keys, each by two clients at two gateways: one effect each. Then 50 more while one gateway is killed: none
    twice, and everybody is told the same, be it that nobody knows."""
    calm, cut = [f"calm {n}" for n in range(200)], [f"cut {n}" for n in range(50)]
    with counting_upstream() as upstream, side_by_side(tmp_path, redis_server.url, upstream) as gateways:
        found = asyncio.run(race(gateways, calm, clients=32, each=2))
        assert broken(found, calm, 2, upstream) == []
        assert effects(upstream) == dict.fromkeys(calm, 1)
        upstream.first = lambda: time.sleep(0.03)

        def on_key(number: int) -> None:
            if number == 25:
                gateways[1].process.kill()

        found = asyncio.run(race(gateways, cut, clients=32, each=2, on_key=on_key))
        assert broken(found, cut, 2, upstream) == []
        assert found.unreached > 0
