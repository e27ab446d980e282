"""Whoever the settings name is told of parked calls, also of the last one before the gateway stops."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack

import pytest

from gateway.identity.vault import local_vault
from gateway.notices import notices_of, untold
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


@pytest.mark.parametrize("url", ["http://desk.example/hook", "http://192.0.2.1/", "ftp://127.0.0.1/", "https://"])
def test_a_webhook_is_https_but_on_loopback(url: str) -> None:
    """Who waits for what is nobody's business on the way; the sentence says what is right."""
    given = {"TOOLGATE_APPROVALS__WEBHOOK": url, "TOOLGATE_APPROVALS__SECRET": "env:KEY"}
    with pytest.raises(BadSettings, match=r"approvals\.webhook: (must be https|is no URL)"):
        load_settings(None, given, {})


def test_a_key_that_is_not_there_is_told_at_the_start() -> None:
    """Not when the first call waits and nobody hears of it."""
    given = {"TOOLGATE_APPROVALS__WEBHOOK": "https://a.example/", "TOOLGATE_APPROVALS__SECRET": "env:KEY"}
    settings = load_settings(None, given, {})
    assert untold(settings, local_vault({})) == "it is not set"
    assert untold(settings, local_vault({"KEY": "a key that is long enough"})) is None
    assert untold(load_settings(None, {}, {}), local_vault({})) is None


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
