"""What a container can be trusted to keep, from what its runner saw inside before any job came, and the engine's caps.

Pure. Nothing is promised that was not seen; a container that misses one of the essentials is not used at all.
"""

from collections.abc import Mapping
from typing import Final

from sandboxes.offers import OWN_KERNEL
from sandboxes.template import ROOM_PIDS, UID, Shape

# The kernel rounds a limit of memory down to whole pages.
PAGE: Final = 64 * 1024
FILTERED: Final = 2
# What the broker and our own side of the socket give, whatever is inside.
ALWAYS: Final = frozenset({"wall-kill", "output-cap", "no-secrets-inside"})

Facts = Mapping[str, object]


def faults(facts: Facts, runtime: str) -> list[str]:
    """The essentials that a container misses, as sentences' parts; empty for one that may be used.

    A runtime with a kernel of its own does not let system calls through to ours, and may show no filter inside.
    """
    wanted = {
        "it does not run as a user without rights": facts.get("uid") == UID,
        "it has capabilities": _is_zero(facts.get("cap_eff")),
        "it could gain privileges": facts.get("no_new_privs") is True,
        "its system calls are not filtered": runtime in OWN_KERNEL or facts.get("seccomp") == FILTERED,
        "its root can be written": facts.get("root_readonly") is True,
        "it has a network": facts.get("interfaces") in ([], ["lo"]),
    }
    return [text for text, kept in wanted.items() if not kept]


def guarantees(facts: Facts, shape: Shape, status: Mapping[str, object]) -> frozenset[str]:
    """The guarantees of a container without faults. status: the broker's, with what the engine's cgroups can cap."""
    found = status.get("caps")
    caps = found if isinstance(found, dict) else {}
    memory, pids = facts.get("memory_limit"), facts.get("pids_limit")
    kept = {
        "readonly-root": True,
        "disk-cap": True,
        "no-network": True,
        "egress-allowlist": True,
        "cpu-cap": caps.get("CpuCfsQuota") is True,
        "memory-cap": caps.get("MemoryLimit") is True and isinstance(memory, int) and memory <= shape.memory + PAGE,
        "pid-cap": caps.get("PidsLimit") is True and isinstance(pids, int) and pids <= shape.pids + ROOM_PIDS,
        "no-shared-kernel": shape.runtime in OWN_KERNEL,
    }
    return ALWAYS | {name for name, holds in kept.items() if holds}


def _is_zero(value: object) -> bool:
    return isinstance(value, str) and value != "" and not value.strip("0")
