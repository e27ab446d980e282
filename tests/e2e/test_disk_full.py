"""A log that cannot be written: the call is refused with `audit_unavailable`, and nothing runs."""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.killing import Siege, judge
from tests.e2e.upstream import Counted, counting_upstream, spec_and_policy
from tests.served import Served, ready, start

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk needs root")


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 12 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,mode=0700", "none", str(disk)], check=False)
    if mounted.returncode != 0:
        pytest.skip("this machine does not let us mount a disk")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


def gateway_in(home: Path, upstream: Counted, tmp_path: Path) -> Served:
    """A gateway with small segments and one tool that counts what reaches it."""
    specs, policies = spec_and_policy(tmp_path, upstream)
    env = {"TOOLGATE_AUDIT__SEGMENT": "65536"}
    process = start(home, "--specs", str(specs), "--policies", str(policies), env=env)
    return ready(process, home)


def until_refused(gateway: Served) -> tuple[int, str]:
    """Calls until one is refused; its status and code."""
    for number in range(20_000):
        status, said = gateway.call("count", {"text": f"{number} " + "x" * 3000})
        if status != 200:
            return status, said["code"]
    raise AssertionError("the disk did not fill up")


def until_served(gateway: Served) -> None:
    """Calls until one is served again."""
    deadline = time.monotonic() + 30
    while gateway.call("count", {"text": "again"})[0] != 200:
        assert time.monotonic() < deadline, "the gateway did not recover"
        time.sleep(0.1)


def remount_read_only(disk: Path) -> None:
    """Remounts as soon as nobody has a file open for writing: the gateway tries to write twice a second."""
    deadline = time.monotonic() + 30
    while subprocess.run(["mount", "-o", "remount,ro", str(disk)], capture_output=True, check=False).returncode:
        assert time.monotonic() < deadline, "the disk stayed busy"
        time.sleep(0.05)


def test_a_full_disk_refuses_calls_and_nothing_runs(small_disk: Path, tmp_path: Path) -> None:
    """503, not ready, no request to the backend; once there is room again calls are served. Every request had an
    intent, exactly the calls without an outcome are in doubt, and the log verifies."""
    with counting_upstream() as upstream:
        gateway = gateway_in(small_disk / "home", upstream, tmp_path)
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            left = os.statvfs(small_disk)
            file.write(b"\0" * max(0, left.f_bavail * left.f_frsize - 600_000))
        assert until_refused(gateway) == (503, "audit_unavailable")
        before = upstream.count()
        for number in range(20):
            assert gateway.call("count", {"text": str(number)})[0] == 503
        assert upstream.count() == before
        assert gateway.get("/readyz")[0] == 503
        filler.unlink()
        until_served(gateway)
        assert gateway.get("/readyz")[0] == 200
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0
    assert judge(Siege(small_disk / "home", (), upstream, random.Random())).broken == []


def test_a_log_on_a_full_disk_that_becomes_read_only_refuses_calls(small_disk: Path, tmp_path: Path) -> None:
    """Full, then remounted read-only: 503 and no effect throughout; writable with room again: served, and the log is
    whole."""
    with counting_upstream() as upstream:
        filler = small_disk / "filler"
        home = tmp_path / "home"
        home.mkdir(mode=0o700)
        (home / "audit").symlink_to(small_disk)
        gateway = gateway_in(home, upstream, tmp_path)
        filler.write_bytes(b"\0" * (9 << 20))
        assert until_refused(gateway) == (503, "audit_unavailable")
        remount_read_only(small_disk)
        before = upstream.count()
        for number in range(20):
            assert gateway.call("count", {"text": str(number)})[0] == 503
        assert upstream.count() == before
        subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
        filler.unlink()
        until_served(gateway)
        gateway.process.terminate()
        assert gateway.process.wait(30) == 0
    assert judge(Siege(home, (), upstream, random.Random())).broken == []
