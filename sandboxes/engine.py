"""The engine as the broker uses it: a few blocking operations, each with a time limit of its own.

The only file that knows the Docker SDK. Never used in the gateway, never connects anywhere but to a unix socket of this
machine, and never retries.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import docker  # type: ignore[import-untyped]  # the SDK ships no types
from docker.errors import (  # type: ignore[import-untyped]  # as above
    APIError,
    DockerException,
)

GONE: Final = 404
NOT_NOW: Final = 409
# Seconds after which an operation is given up.
SECONDS: Final[Mapping[str, float]] = {"ping": 1.0, "look": 3.0, "create": 10.0, "start": 15.0, "end": 10.0}
# What a status shows of the engine's own account of itself.
CAPS: Final = ("MemoryLimit", "SwapLimit", "PidsLimit", "CpuCfsQuota")


class EngineDown(Exception):
    """The engine does not answer; the text is a sentence."""


class EngineRefused(Exception):
    """The engine answered that it will not, or cannot; the text is a sentence."""


@dataclass(frozen=True, slots=True)
class State:
    """How a container is. oom: the kernel killed in it for memory. code: its exit code, None while it runs.

    pid: of its first process, as the engine's host counts, 0 when it does not run.
    """

    running: bool
    oom: bool
    code: int | None
    pid: int


@dataclass(frozen=True, slots=True)
class Seen:
    """A container on the engine, whoever made it."""

    id: str
    name: str
    labels: Mapping[str, str]


class Engine:
    """One engine behind the unix socket at `path`. Every method blocks, and may be called from any thread.

    Raises `EngineDown` or `EngineRefused`. What is gone already counts as ended and removed.
    """

    def __init__(self, path: str) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._clients: dict[str, docker.APIClient] = {}

    def ping(self) -> None:
        with self._asking("ping") as client:
            client.ping()

    def create(self, name: str, body: dict[str, object]) -> str:
        """Makes a container; gives its id."""
        with self._asking("create") as client:
            return str(client.create_container_from_config(body, name)["Id"])

    def start(self, container: str) -> None:
        with self._asking("start") as client:
            client.start(container)

    def state(self, container: str) -> State:
        with self._asking("look") as client:
            found = client.inspect_container(container)["State"]
            running = bool(found["Running"])
            code = None if running else int(found["ExitCode"])
            return State(running, bool(found["OOMKilled"]), code, int(found["Pid"]))

    def kill(self, container: str) -> None:
        with self._asking("end", forgive=(GONE, NOT_NOW)) as client:
            client.kill(container)

    def remove(self, container: str) -> None:
        """Kills the container if it runs, and removes it with whatever volume an image may have given it."""
        with self._asking("end", forgive=(GONE, NOT_NOW)) as client:
            client.remove_container(container, force=True, v=True)

    def labelled(self, label: str) -> list[Seen]:
        """Every container, running or not, that carries the label."""
        with self._asking("look") as client:
            found = client.containers(all=True, filters={"label": [label]})
            return [Seen(one["Id"], (one["Names"] or ["/"])[0].lstrip("/"), one["Labels"] or {}) for one in found]

    def volumes(self, image: str) -> list[str]:
        """The paths at which an image asks for writable volumes."""
        with self._asking("look") as client:
            return sorted((client.inspect_image(image)["Config"] or {}).get("Volumes") or {})

    def status(self) -> dict[str, object]:
        """What the engine says of itself, for a person to read and for guarantees to rest on."""
        with self._asking("look") as client:
            said, parts = client.info(), client.version()
        components = {one["Name"]: one["Version"] for one in parts.get("Components") or []}
        return {
            "engine": str(said.get("ServerVersion", "")),
            "runc": str(components.get("runc", "")),
            "kernel": str(said.get("KernelVersion", "")),
            "cgroup": str(said.get("CgroupVersion", "")),
            "runtimes": sorted(said.get("Runtimes") or {}),
            "caps": {name: bool(said.get(name)) for name in CAPS},
            "security": [str(one) for one in said.get("SecurityOptions") or []],
            "warnings": [str(one) for one in said.get("Warnings") or []],
        }

    @contextmanager
    def _asking(self, kind: str, forgive: tuple[int, ...] = ()) -> Iterator[Any]:
        """A client with the time limit of `kind`. What it raises becomes ours; HTTP codes in `forgive` are fine."""
        try:
            yield self._client(kind)
        except APIError as error:
            code = error.response.status_code if error.response is not None else 0
            if code not in forgive:
                raise EngineRefused(f"the engine refused: {str(error.explanation or error)[:300]}") from None
        # A failed request of the SDK's is an OSError.
        except (DockerException, OSError) as error:
            with self._lock:
                self._clients.clear()  # the engine that comes back may speak another version
            raise EngineDown(f"the container engine does not answer{self._why()}") from error

    def _why(self) -> str:
        if not os.path.exists(self._path):
            return ": its socket is not there"
        return "" if os.access(self._path, os.W_OK) else ": the broker may not use its socket"

    def _client(self, kind: str) -> docker.APIClient:
        client = self._clients.get(kind)
        if client is None:
            client = docker.APIClient(f"unix://{self._path}", version="auto", timeout=SECONDS[kind])
            with self._lock:
                self._clients[kind] = client
        return client
