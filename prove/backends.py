"""Backends for the proofs, opened as the gateway opens them, and a job that fits each."""

from __future__ import annotations

from contextlib import AsyncExitStack

from wasmtime import WasmtimeError, wat2wasm

from gateway.backends import images, make_backend
from gateway.settings import Sandboxes
from sandboxes.model import Backend, Job, SandboxUnavailable
from sandboxes.modules import ModuleRefused, register


def registered(text: str) -> str:
    """The digest of a module written as text, registered. Raises `ModuleRefused`."""
    try:
        program = bytes(wat2wasm(text))
    except WasmtimeError as error:
        raise ModuleRefused(str(error).splitlines()[0]) from None
    return register(Sandboxes().guests.expanduser(), program).digest


async def opened(name: str, stack: AsyncExitStack) -> tuple[Backend, Job]:
    """A started backend and a job for it, without its program. Raises `SandboxUnavailable`."""
    settings = Sandboxes(workers=1)
    job = Job()
    if name == "docker":
        image = images(settings.guests.expanduser()).get("python")
        if image is None:
            raise SandboxUnavailable("no image `python`: `make runners` builds it")
        job = Job(image=image)
    backend = make_backend(name, settings, (), print)
    stack.push_async_callback(backend.close)
    await backend.start()
    return backend, job
