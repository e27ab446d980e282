"""The one container there is: all its settings, as a pure function of a shape, a socket folder, a profile and labels.

Nothing an untrusted side says reaches it but the numbers and the names in `Shape`. Never touches an engine or a file.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sandboxes.model import Limits

UID: Final = 65534
# Where the runner finds its one way out.
INSIDE: Final = "/run/toolgate"
SOCKET: Final = "gate.sock"
# The runner is counted with the job's processes, and so are the threads of the runtime that starts it.
ROOM_PIDS: Final = 8
DESCRIPTORS: Final = 256
# Seconds of processor time after which a process ends by itself, should nobody be able to kill it.
CPU_SECONDS: Final = 600
INODES: Final = 16384
# What of /proc, /sys and /dev nobody inside can see or write: the engines' own lists differ by version, and none has
# the message queues, a folder in which everybody may make files that no limit counts.
HIDDEN: Final = (
    *("/dev/mqueue", "/proc/acpi", "/proc/asound", "/proc/interrupts", "/proc/kcore", "/proc/keys"),
    *("/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/timer_list", "/proc/timer_stats"),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
)
# Processor shares are asked for in billionths.
NANO: Final = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Shape:
    """What is fixed in a container when it is made. Two jobs of one shape can be given the same kind of container.

    image: its id, `sha256:…`, which fixes the runner's version too. memory, disk: bytes. cpu: processors. pids:
    processes and threads of the job.
    """

    image: str
    runtime: str
    memory: int
    cpu: float
    pids: int
    disk: int

    @classmethod
    def of(cls, image: str, runtime: str, limits: Limits) -> "Shape":
        return cls(image, runtime, limits.memory, limits.cpu, limits.pids, limits.disk)


def container(shape: Shape, folder: str, seccomp: str, labels: Mapping[str, str]) -> dict[str, object]:
    """The body of the engine's request to create a container (Docker Engine API, `POST /containers/create`).

    folder: the one folder of this machine that is mounted, read-only. seccomp: the profile as JSON text. The image says
    which program runs; its environment is the image's own, and no volume, port or health check of it takes effect.
    """
    return {
        "Image": shape.image,
        "User": f"{UID}:{UID}",
        "Hostname": "sandbox",
        "Env": [],
        "Labels": dict(labels),
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Runtime": shape.runtime,
            "Init": False,  # the runner is the first process: it buries the dead, and nothing inside can end it
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": f"rw,noexec,nosuid,nodev,size={shape.disk},nr_inodes={INODES},mode=1777"},  # inside
            "Mounts": [{"Type": "bind", "Source": folder, "Target": INSIDE, "ReadOnly": True}],
            "MaskedPaths": list(HIDDEN),
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", f"seccomp={seccomp}"],
            "NetworkMode": "none",
            "IpcMode": "none",
            "Memory": shape.memory,
            "MemorySwap": shape.memory,
            "NanoCpus": round(shape.cpu * NANO),
            "PidsLimit": shape.pids + ROOM_PIDS,
            "OomScoreAdj": 900,
            "Ulimits": [
                _ulimit("nofile", DESCRIPTORS),
                _ulimit("fsize", shape.disk),
                _ulimit("core", 0),
                _ulimit("msgqueue", 0),
                _ulimit("cpu", CPU_SECONDS),
            ],
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
        },
    }


def _ulimit(name: str, value: int) -> dict[str, object]:
    return {"Name": name, "Soft": value, "Hard": value}
