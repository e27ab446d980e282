"""Backends for the proofs, opened as the gateway opens them, and a job that fits each."""

from __future__ import annotations

from contextlib import AsyncExitStack

from gateway.backends import images, open_backend

from gateway.settings import Sandboxes
from sandboxes.model import Backend, Job, SandboxUnavailable


async def opened(name: str, stack: AsyncExitStack) -> tuple[Backend, Job]:
    """A started backend and a job for it, without its program. Raises `SandboxUnavailable`."""
    settings = Sandboxes(workers=1)
    job = Job()
    if name == "docker":
        image = images(settings.guests.expanduser()).get("python")
        if image is None:
            raise SandboxUnavailable("no image `python`: `make runners` builds it")
        job = Job(image=image)
    return await open_backend(name, settings, (), stack, print), job
