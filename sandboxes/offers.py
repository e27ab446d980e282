"""What each kind of sandbox can give at best, and within which limits: for reading specs before anything is started.

Never looks at this host; what a started backend really gives stands in its `guarantees`.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from sandboxes.guest import WASM_GUARANTEES
from sandboxes.model import BOUNDS, MIB

Bounds = Mapping[str, tuple[float, float]]

DOCKER_GUARANTEES: Final = frozenset(
    {
        "cpu-cap",
        "disk-cap",
        "egress-allowlist",
        "memory-cap",
        "no-network",
        "no-secrets-inside",
        "output-cap",
        "pid-cap",
        "readonly-root",
        "wall-kill",
    }
)
# Runtimes that put a kernel of their own between the container and ours.
OWN_KERNEL: Final = frozenset({"runsc", "kata"})

_ALL: Final[Bounds] = MappingProxyType({name: (low, high) for name, low, high in BOUNDS})
# A module's files are kept in the memory of its worker.
MODULE_DISK: Final = 64 * MIB
# One thread, on one linear memory.
_WASM: Final[Bounds] = MappingProxyType({**_ALL, "memory": (32 * MIB, 512 * MIB), "cpu": (1, 1)})
# The files of a snippet are within its memory.
_SNIPPETS: Final[Bounds] = MappingProxyType({name: bounds for name, bounds in _WASM.items() if name != "disk"})
_MODULES: Final[Bounds] = MappingProxyType({**_WASM, "disk": (1 * MIB, MODULE_DISK)})

BACKENDS: Final[Mapping[str, tuple[frozenset[str], Bounds]]] = MappingProxyType(
    {
        "wasm-python": (WASM_GUARANTEES, _SNIPPETS),
        "wasm-js": (WASM_GUARANTEES, _SNIPPETS),
        "wasm": (WASM_GUARANTEES, _MODULES),
        "docker": (DOCKER_GUARANTEES, _ALL),
    }
)
