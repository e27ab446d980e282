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

LACKING: Final = {
    "MemoryLimit": "the engine cannot cap memory",
    "SwapLimit": "the engine cannot cap swap: memory beyond its cap may be swapped out",
    "PidsLimit": "the engine cannot cap processes",
    "CpuCfsQuota": "the engine cannot cap processor time",
}
PATCHED: Final = ", unless its distributor has patched it"

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


def concerns(status: Mapping[str, object]) -> list[str]:
    """What an operator should know of this engine, as sentences: known faults of its runtime, and caps it lacks."""
    found = status.get("caps")
    caps = found if isinstance(found, dict) else {}
    said = [text for name, text in LACKING.items() if caps.get(name) is not True]
    runc = str(status.get("runc") or "unknown")
    version = tuple(int(part) for part in runc.partition("+")[0].partition("-")[0].split(".") if part.isdecimal())
    if version < (1, 1, 12):
        said.append(f"runc {runc} is older than 1.1.12 (CVE-2024-21626){PATCHED}")
    if version < (1, 2, 8) or (1, 3) <= version < (1, 3, 3):
        said.append(f"runc {runc} lacks the fixes of 1.2.8 and 1.3.3 (CVE-2025-31133){PATCHED}")
    warnings = status.get("warnings")
    return said + ([str(text) for text in warnings] if isinstance(warnings, list) else [])


def _is_zero(value: object) -> bool:
    return isinstance(value, str) and value != "" and not value.strip("0")
