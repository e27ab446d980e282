"""What can be seen from inside: what this container was really given, and which of its limits were met.

Reads the kernel's own accounts, under cgroup v1 and v2. Never believes a configuration.
"""

import os

CGROUP = "/sys/fs/cgroup/"
VERSION = "1"

Facts = dict[str, object]


def facts() -> Facts:
    """The container as it is. memory_limit, pids_limit: None where there is none or it cannot be read."""
    status = dict(line.split(":", 1) for line in _text("/proc/self/status").splitlines() if ":" in line)
    return {
        "uid": os.getuid(),
        "gid": os.getgid(),
        "cap_eff": status.get("CapEff", "").strip(),
        "seccomp": _number(status.get("Seccomp", "")),
        "no_new_privs": _number(status.get("NoNewPrivs", "")) == 1,
        "root_readonly": bool(os.statvfs("/").f_flag & os.ST_RDONLY),
        "interfaces": sorted(line.split(":")[0].strip() for line in _text("/proc/net/dev").splitlines() if ":" in line),
        "memory_limit": _either("memory/memory.limit_in_bytes", "memory.max"),
        "pids_limit": _either("pids/pids.max", "pids.max"),
        "runner": VERSION,
    }


def met() -> dict[str, int]:
    """How often the kernel killed for memory, and how often it refused a process, since the container began."""
    return {
        "memory": _counter("oom_kill", "memory/memory.oom_control", "memory.events"),
        "pids": _counter("max", "pids/pids.events", "pids.events"),
    }


def _counter(name: str, *places: str) -> int:
    for place in places:
        for line in _text(CGROUP + place).splitlines():
            if line.startswith(f"{name} "):
                return _number(line[len(name) :]) or 0
    return 0


def _either(*places: str) -> int | None:
    for place in places:
        found = _number(_text(CGROUP + place))
        if found is not None:
            return found
    return None


def _number(text: str) -> int | None:
    text = text.strip()
    return int(text) if text.isdigit() else None


def _text(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            return file.read()
    except OSError:
        return ""
