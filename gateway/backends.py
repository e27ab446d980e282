"""The sandbox backends of this host: what each could give, for reading specs, and those that are started.

Makes and closes them; it never runs a job. What a started one really gives it says itself, and it is asked again for
every call.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

from gateway.loading import OFFERS
from gateway.runners.sandboxed import limits_of
from gateway.settings import DockerSandboxes, Sandboxes
from gateway.specs.sandboxed import Offer
from gateway.specs.yaml import SpecError, SpecErrors
from gateway.tool import SandboxBackend, Tool
from sandboxes import modules
from sandboxes.docker import Docker
from sandboxes.model import Backend, SandboxUnavailable
from sandboxes.offers import OWN_KERNEL
from sandboxes.pool import WasmJs, WasmPython
from sandboxes.wasm_modules import WasmModules

Progress = Callable[[str], None]


def offers(settings: Sandboxes) -> dict[str, Offer]:
    """What each backend gives on a host that has all it needs. Reads two small files, starts nothing."""
    guests = settings.guests.expanduser()
    docker = replace(OFFERS["docker"], images=images(guests))
    if settings.docker.runtime in OWN_KERNEL:
        docker = replace(docker, guarantees=docker.guarantees | {"no-shared-kernel"})
    return {**OFFERS, "docker": docker, "wasm": replace(OFFERS["wasm"], modules=_registered(guests))}


def _registered(guests: Path) -> dict[str, frozenset[str]]:
    """The modules there are, digest → what they can reach.

    None in a folder that is open to others, which `toolgate modules` says.
    """
    try:
        return {each.digest: each.uses for each in modules.every(guests)}
    except SandboxUnavailable:
        return {}


def images(guests: Path) -> dict[str, str]:
    """The images made on this host, name → id. Empty when there are none, or the file cannot be read."""
    try:
        found = json.loads((guests / "images.json").read_text())
    except (OSError, ValueError):
        return {}
    return {name: image for name, image in found.items() if isinstance(image, str)} if isinstance(found, dict) else {}


async def open_backends(
    settings: Sandboxes, tools: Iterable[Tool], stack: AsyncExitStack, progress: Progress
) -> dict[str, Backend]:
    """The backends that these tools run in, started, to be closed with `stack`.

    One that stands on what others run (a Docker engine) may come later; its tools are refused until then.

    Raises:
        SandboxUnavailable: a guest cannot be had. SpecErrors: a tool requires what its backend was found not to give.
    """
    wanting: dict[str, list[Tool]] = {}
    for tool in tools:
        if isinstance(tool.backend, SandboxBackend):
            wanting.setdefault(tool.backend.backend, []).append(tool)
    opened: dict[str, Backend] = {}
    for name, own in wanting.items():
        opened[name] = make_backend(name, settings, own, progress)
        stack.push_async_callback(opened[name].close)
        try:
            await opened[name].start()
        except SandboxUnavailable as error:
            if name != "docker":
                raise
            waiting = [tool for tool in own if tool not in _imageless(own)]
            if waiting:
                progress(f"toolgate: {error}; until it can be had, calls of {_names(waiting)} are refused")
    lost = _imageless(wanting.get("docker", ()))
    if lost:
        progress(f"toolgate: calls of {_names(lost)} are refused until `make runners` has made what they run in")
    unmet = [finding for name, own in wanting.items() for finding in _unmet(opened[name], own)]
    if unmet:
        raise SpecErrors(unmet)
    return opened


def make_backend(name: str, settings: Sandboxes, tools: Sequence[Tool], progress: Progress) -> Backend:
    """One backend, not started. `tools` are those it is to stand ready for."""
    guests = settings.guests.expanduser()
    if name == "docker":
        return _docker(settings.docker, images(guests), tools)
    if name == "wasm-js":
        return WasmJs(guests, workers=settings.workers, progress=progress)
    if name == "wasm":
        return WasmModules(guests, workers=settings.workers, progress=progress)
    return WasmPython(guests, workers=settings.workers, progress=progress)


def _docker(settings: DockerSandboxes, known: Mapping[str, str], tools: Sequence[Tool]) -> Docker:
    specs = [(tool.backend, tool.timeout) for tool in tools if isinstance(tool.backend, SandboxBackend)]
    declared = [(spec.image, limits_of(spec, timeout)) for spec, timeout in specs if spec.image]
    return Docker(
        str(settings.socket),
        broker=settings.broker,
        runtime=settings.runtime,
        pool=settings.warm,
        images={**known, **{image: image for image, _ in declared}},
        declared=declared,
    )


def _imageless(tools: Iterable[Tool]) -> list[Tool]:
    """Those that name an image of which nothing is known here."""
    return [tool for tool in tools if isinstance(tool.backend, SandboxBackend) and not tool.backend.image]


def _names(tools: Sequence[Tool]) -> str:
    return ", ".join(tool.name for tool in tools)


def _unmet(backend: Backend, tools: Iterable[Tool]) -> Iterable[SpecError]:
    """What tools require and this host does not give, where it could be found out."""
    for tool in tools:
        required = tool.backend.require if isinstance(tool.backend, SandboxBackend) else frozenset[str]()
        missing = sorted(required - backend.guarantees) if backend.guarantees else []
        if missing:
            file, _, line = tool.source.rpartition(":")
            text = f"{backend.name} was found not to guarantee {', '.join(missing)} here: `toolgate doctor` says more"
            yield SpecError(file, int(line), 1, text)
