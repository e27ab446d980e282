"""Whoever the settings name is told of parked calls, also of the last one before the gateway stops."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.identity.vault import local_vault
from gateway.notices import notices_of
from gateway.settings import BadSettings, load_settings
from gateway.trial import StillClock
from tests.gateway.runners.servers import Upstream, http, new_net
from tests.gateway.runners.test_webhook import NOW, PARKED


def test_nobody_is_told_unless_settings_say_so() -> None:
    """Without a webhook there is none."""

    async def run() -> None:
        async with AsyncExitStack() as stack:
            settings = load_settings(None, {}, {})
            assert notices_of(settings, new_net(), local_vault({}), StillClock(NOW), stack) is None

    asyncio.run(run())


@pytest.mark.parametrize(
    ("name", "value"), [("WEBHOOK", "https://a.example/"), ("SECRET", "env:KEY"), ("WEBHOOK", "ftp://a.example/")]
)
def test_half_of_it_is_refused(name: str, value: str) -> None:
    """A URL without a key, a key without a URL, and what is no URL of the web."""
    with pytest.raises(BadSettings, match="approvals"):
        load_settings(None, {f"TOOLGATE_APPROVALS__{name}": value}, {})


def test_the_last_notice_is_sent_before_the_gateway_stops() -> None:
    """What is asked right before the end is delivered while it ends."""

    async def run() -> None:
        async with Upstream(http(b"", "204 No Content")) as receiver:
            given = {"WEBHOOK": f"http://127.0.0.1:{receiver.port}/", "SECRET": "env:KEY"}
            settings = load_settings(None, {f"TOOLGATE_APPROVALS__{name}": each for name, each in given.items()}, {})
            async with AsyncExitStack() as stack:
                vault = local_vault({"KEY": "a key that is long enough"})
                notices = notices_of(settings, new_net(), vault, StillClock(NOW), stack)
                assert notices is not None
                notices.asked(PARKED)
            assert len(receiver.requests) == 1

    asyncio.run(run())
