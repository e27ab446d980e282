"""Who is told that a call waits for a person, as the settings say. It sends nothing itself."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AsyncExitStack

from gateway import ports
from gateway.identity.vault import SecretVault
from gateway.runners.net import Net
from gateway.runners.webhook import Webhook, secret_of
from gateway.settings import Settings

_LAST = 2.0  # seconds that notices get at the end


def notices_of(
    settings: Settings, net: Net, vault: ports.Vault, clock: ports.Clock, stack: AsyncExitStack
) -> ports.Notices | None:
    """What tells of parked calls, sending until `stack` is closed; None where nothing is to be told."""
    url, secret = settings.approvals.webhook, settings.approvals.secret
    if url is None or secret is None:
        return None
    hook = Webhook(url, secret, net, vault, clock)
    stack.push_async_callback(_stop, hook, asyncio.create_task(hook.deliver()))
    return hook


def untold(settings: Settings, vault: SecretVault) -> str | None:
    """Why nobody will be told, for checks at the start; None when they will be, or nobody is to be told."""
    secret = settings.approvals.secret
    return vault.look(secret_of(secret)) if secret is not None else None


async def _stop(hook: Webhook, sending: asyncio.Task[None]) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(hook.drained(), _LAST)
    sending.cancel()
    await asyncio.wait({sending})
