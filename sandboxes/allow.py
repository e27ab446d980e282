"""What the broker allows: its own list of images, runtimes and ceilings, and the few requests it understands.

Pure. Whatever asks may have been taken over: a request with one key too many is refused, and none carries a path, an
environment, a mount or a privilege.
"""

from collections.abc import Set
from dataclasses import dataclass
from typing import Final

from sandboxes.model import BOUNDS
from sandboxes.template import SOCKET, Shape

RUNTIMES: Final = frozenset({"runc", "runsc", "kata"})
# A unix socket's path holds this many bytes with its end mark (unix(7)); what comes after the root folder is known.
PATH_BYTES: Final = 107
BELOW_ROOT: Final = len("/0123456789abcdef/0123456789abcdef/") + len(SOCKET)
CONTAINERS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
_HIGHEST: Final = {name: high for name, _, high in BOUNDS}
_LOWEST: Final = {name: low for name, low, _ in BOUNDS}
_BAKED: Final = ("memory", "cpu", "pids", "disk")


class Refused(Exception):
    """The broker will not do that; the text is a sentence that says why."""


@dataclass(frozen=True, slots=True)
class Allowed:
    """The allow-list, fixed for the life of a broker.

    engine: the path of the engine's unix socket. root: the folder for the socket folders. images: ids. memory, disk:
    bytes, of one container; cpu: processors; pids; containers: how many there may be at once.
    """

    engine: str
    root: str
    images: frozenset[str]
    runtimes: frozenset[str] = frozenset({"runc"})
    memory: int = int(_HIGHEST["memory"])
    cpu: float = _HIGHEST["cpu"]
    pids: int = int(_HIGHEST["pids"])
    disk: int = int(_HIGHEST["disk"])
    containers: int = CONTAINERS

    @classmethod
    def read(cls, document: dict[str, object]) -> "Allowed":
        """The list from its JSON form: `engine`, `root`, `images`, and if wanted `runtimes` and `ceilings`.

        Raises `Refused` for another shape.
        """
        only(document, {"engine", "root", "images"}, {"runtimes", "ceilings"})
        ceilings = document.get("ceilings", {})
        if not isinstance(ceilings, dict):
            raise Refused("ceilings is not an object")
        only(ceilings, set(), {*_BAKED, "containers"})
        images, runtimes = _texts(document, "images"), _texts(document, "runtimes", ["runc"])
        if not all(map(is_image, images)):
            raise Refused("an image is not given by its id, sha256: and 64 hexadecimal digits")
        if runtimes - RUNTIMES:
            raise Refused(f"a runtime is not one of {', '.join(sorted(RUNTIMES))}")
        numbers = {name: _number(ceilings, name, 0, _HIGHEST.get(name, 4096)) for name in ceilings}
        cpu = {"cpu": numbers.pop("cpu")} if "cpu" in numbers else {}
        whole = {name: int(value) for name, value in numbers.items()}
        root = _path(document, "root")
        if len(root.encode()) + BELOW_ROOT > PATH_BYTES:
            raise Refused(f"the folder for sockets has a path of more than {PATH_BYTES - BELOW_ROOT} bytes")
        return cls(_path(document, "engine"), root, images, runtimes, **whole, **cpu)  # type: ignore[arg-type]  # names checked above

    def shape(self, request: dict[str, object]) -> Shape:
        """The container a `create` request asks for. Raises `Refused` for anything not on the list."""
        only(request, {"image", "runtime", "limits"})
        image, runtime, limits = request["image"], request["runtime"], request["limits"]
        if not isinstance(image, str) or image not in self.images:
            raise Refused("that image is not on the broker's list")
        if not isinstance(runtime, str) or runtime not in self.runtimes:
            raise Refused("that runtime is not on the broker's list")
        if not isinstance(limits, dict):
            raise Refused("limits is not an object")
        only(limits, set(_BAKED))
        memory, cpu, pids, disk = (_number(limits, name, _LOWEST[name], getattr(self, name)) for name in _BAKED)
        return Shape(image, runtime, int(memory), cpu, int(pids), int(disk))


def token(request: dict[str, object]) -> str:
    """The id in a request that names a container. Raises `Refused`."""
    only(request, {"id"})
    found = request["id"]
    if not isinstance(found, str):
        raise Refused("an id is a text")
    return found


def is_image(text: str) -> bool:
    """Whether this is an image's id: `sha256:` and 64 lower-case hexadecimal digits."""
    head, colon, digits = text.partition(":")
    return head == "sha256" and colon == ":" and len(digits) == 64 and _HEX.issuperset(digits)


def only(found: dict[str, object], needed: set[str], also: Set[str] = frozenset()) -> None:
    """Raises `Refused` unless `found` has all `needed` keys, and no others but those in `also`."""
    if needed - found.keys():
        raise Refused(f"missing: {', '.join(sorted(needed - found.keys()))}")
    if found.keys() - needed - also:
        raise Refused("there is a key that has no meaning here")


def _number(found: dict[str, object], name: str, low: float, high: float) -> float:
    value = found[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or (name != "cpu" and not isinstance(value, int)):
        raise Refused(f"{name} is not a number of its kind")
    if not low <= value <= high:
        raise Refused(f"{name} is not between {low} and {high}")
    return value


def _texts(found: dict[str, object], name: str, otherwise: list[str] | None = None) -> frozenset[str]:
    value = found.get(name, otherwise)
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Refused(f"{name} is not a list of texts")
    return frozenset(value)


def _path(found: dict[str, object], name: str) -> str:
    value = found[name]
    if not isinstance(value, str) or not value.startswith("/") or "\0" in value:
        raise Refused(f"{name} is not an absolute path")
    return value.rstrip("/")
