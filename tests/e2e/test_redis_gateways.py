"""Two gateways whose Redis hangs, and has lost everything when it is back, while clients call both."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.redis_faults import Fault, Site
from tests.e2e.redis_suffering import pair, suffer
from tests.redisserver import RedisServer


def test_a_redis_that_fails_under_load_breaks_no_promise(redis_server: RedisServer, tmp_path: Path) -> None:
    """No key has two effects, nothing goes over a limit, what is refused is refused by name, and it goes on again."""

    def lose(at: Site) -> None:
        at.server.recover()
        at.server.flush()

    with pair(tmp_path, redis_server) as both:
        assert suffer(both, Fault(lambda at: at.server.hang(), lose), seconds=0.4, before=0.3, after=0.3).broken == []
