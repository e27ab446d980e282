"""The one container: every setting of it, and that nothing asked for can change any but the numbers."""

from __future__ import annotations

import json
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from sandboxes.broker import PROFILE
from sandboxes.facts import ALWAYS, LACKING, concerns, faults, guarantees
from sandboxes.model import MIB
from sandboxes.offers import DOCKER_GUARANTEES
from sandboxes.template import HIDDEN, ROOM_PIDS, Shape, container

SHAPE = Shape("sha256:" + "a" * 64, "runc", 64 * MIB, 0.5, 16, 8 * MIB)


def test_the_container_is_the_hardened_one() -> None:
    """Read-only root, no capability, no network, no way to gain privileges, an unprivileged user, and every cap."""
    body = container(SHAPE, "/run/x/y", "{}", {"a": "b"})
    assert body == {
        "Image": SHAPE.image,
        "User": "65534:65534",
        "Hostname": "sandbox",
        "Env": [],
        "Labels": {"a": "b"},
        "NetworkDisabled": True,
        "Healthcheck": {"Test": ["NONE"]},
        "HostConfig": {
            "Runtime": "runc",
            "Init": False,
            "ReadonlyRootfs": True,
            "Tmpfs": {"/tmp": "rw,noexec,nosuid,nodev,size=8388608,nr_inodes=16384,mode=1777"},
            "Mounts": [{"Type": "bind", "Source": "/run/x/y", "Target": "/run/toolgate", "ReadOnly": True}],
            "MaskedPaths": list(HIDDEN),
            "CapDrop": ["ALL"],
            "SecurityOpt": ["no-new-privileges:true", "seccomp={}"],
            "NetworkMode": "none",
            "IpcMode": "none",
            "Memory": 67108864,
            "MemorySwap": 67108864,
            "NanoCpus": 500000000,
            "PidsLimit": 24,
            "OomScoreAdj": 900,
            "Ulimits": [
                {"Name": "nofile", "Soft": 256, "Hard": 256},
                {"Name": "fsize", "Soft": 8388608, "Hard": 8388608},
                {"Name": "core", "Soft": 0, "Hard": 0},
                {"Name": "msgqueue", "Soft": 0, "Hard": 0},
                {"Name": "cpu", "Soft": 600, "Hard": 600},
            ],
            "LogConfig": {"Type": "none", "Config": {}},
            "RestartPolicy": {"Name": "no"},
        },
    }


def test_nothing_that_an_engine_hides_by_itself_comes_to_light() -> None:
    """Our list of hidden paths takes the place of the engine's: it has all that engines hide, and message queues."""
    engines = "/proc/acpi /proc/kcore /proc/keys /proc/latency_stats /proc/timer_list /proc/timer_stats"
    more = "/proc/sched_debug /proc/scsi /sys/firmware /proc/asound /proc/interrupts /sys/devices/virtual/powercap"
    assert set(HIDDEN) == {*engines.split(), *more.split(), "/dev/mqueue"}


@given(st.builds(Shape, st.text(), st.text(), *[st.integers(1, 1 << 40)] * 4))
def test_a_shape_changes_its_own_settings_and_nothing_else(shape: Shape) -> None:
    """Whatever the six values are, all other settings stay as they are."""
    ours, theirs = (container(one, "/run/x/y", "{}", {}) for one in (SHAPE, shape))
    host, others = ours.pop("HostConfig"), theirs.pop("HostConfig")
    assert isinstance(host, dict)
    assert isinstance(others, dict)
    assert {name for name in ours if ours[name] != theirs[name]} <= {"Image"}
    numbers = {"Runtime", "Memory", "MemorySwap", "NanoCpus", "PidsLimit", "Tmpfs", "Ulimits"}
    assert {name for name in host if host[name] != others.get(name)} <= numbers
    assert host.keys() == others.keys()


def test_the_profile_that_ships_denies_what_it_does_not_name() -> None:
    """The broker hands the engine an allow-list of ours, never the engine's own profile or none."""
    assert Path(PROFILE).is_file()
    assert json.loads(PROFILE.read_text())["defaultAction"] == "SCMP_ACT_ERRNO"


GOOD: dict[str, object] = {
    "uid": 65534,
    "cap_eff": "0000000000000000",
    "seccomp": 2,
    "no_new_privs": True,
    "root_readonly": True,
    "interfaces": ["lo"],
    "memory_limit": SHAPE.memory,
    "pids_limit": SHAPE.pids + ROOM_PIDS,
}
CAPS: dict[str, object] = {"caps": {"MemoryLimit": True, "PidsLimit": True, "CpuCfsQuota": True}}
BAD: dict[str, list[object]] = {
    "uid": [0, 1000, None, "65534"],
    "cap_eff": ["0000000000000400", "", None, 0],
    "seccomp": [0, 1, None, True],
    "no_new_privs": [False, None, 1],
    "root_readonly": [False, None],
    "interfaces": [["eth0", "lo"], None, "lo"],
}


def test_a_container_without_an_essential_is_not_used() -> None:
    """Each essential that is missing, wrong or unsaid is a fault; a runner that says nothing has them all."""
    assert faults(GOOD, "runc") == []
    cases = [(name, value) for name, values in BAD.items() for value in values]
    assert [(name, value) for name, value in cases if not faults({**GOOD, name: value}, "runc")] == []
    assert len(faults({}, "runc")) == len(BAD)


def test_a_kernel_of_its_own_may_show_no_filter() -> None:
    """The filter guards our kernel, which such a runtime does not let calls through to; the rest stays essential."""
    assert faults({**GOOD, "seccomp": 0}, "runsc") == []
    assert len(faults({}, "runsc")) == len(BAD) - 1


def test_a_guarantee_is_given_only_where_it_was_seen() -> None:
    """A cap that the engine lacks, or that the inside does not see as asked for, is not promised."""
    assert guarantees(GOOD, SHAPE, CAPS) == DOCKER_GUARANTEES
    assert guarantees({}, SHAPE, {}) == ALWAYS | {"readonly-root", "disk-cap", "no-network", "egress-allowlist"}
    lost = {
        "memory-cap": {**GOOD, "memory_limit": SHAPE.memory * 2},
        "pid-cap": {**GOOD, "pids_limit": None},
    }
    for name, facts in lost.items():
        assert DOCKER_GUARANTEES - guarantees(facts, SHAPE, CAPS) == {name}
    assert DOCKER_GUARANTEES - guarantees(GOOD, SHAPE, {"caps": {"MemoryLimit": True, "PidsLimit": True}}) == {
        "cpu-cap"
    }


def test_only_a_kernel_of_its_own_is_not_shared() -> None:
    """runc shares our kernel; runsc and kata bring their own."""
    given = {runtime: Shape(SHAPE.image, runtime, 1, 1.0, 1, 1) for runtime in ("runc", "runsc", "kata")}
    kept = {name for name, shape in given.items() if "no-shared-kernel" in guarantees(GOOD, shape, CAPS)}
    assert kept == {"runsc", "kata"}


def test_an_old_runtime_and_missing_caps_are_told() -> None:
    """Each fixed fault of runc is named for the versions that have it, and each cap an engine lacks."""
    caps = dict.fromkeys(LACKING, True)
    told = {
        runc: len(concerns({"runc": runc, "caps": caps})) for runc in ("1.1.5+ds1", "1.1.12", "1.2.8", "1.3.2", "1.3.3")
    }
    assert told == {"1.1.5+ds1": 2, "1.1.12": 1, "1.2.8": 0, "1.3.2": 1, "1.3.3": 0}
    assert concerns({"runc": "1.4.0-rc.1", "caps": {}, "warnings": ["no swap"]}) == [*LACKING.values(), "no swap"]
    assert len(concerns({})) == len(LACKING) + 2
