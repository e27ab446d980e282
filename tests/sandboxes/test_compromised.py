"""A worker in which code of ours runs with the worker's own rights: it reaches nothing, and we know that it tried."""

import asyncio
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from prove.attacks import ATTACKS
from prove.taken_over import REFUSED, besieged, laid_out, unconfined, worker_argv
from sandboxes.guests.build import ensure
from sandboxes.model import SandboxUnavailable
from sandboxes.wasm import Worker

LESSER_KERNEL = str(Path(__file__).with_name("lesser_kernel.py"))
ROOT = str(Path(__file__).parents[2])
NO_LANDLOCK = "landlock_create_ruleset"
# Takes CAP_KILL, for good, from the program that follows.
GIVE_UP_KILL = "import ctypes, os, sys; ctypes.CDLL(None).prctl(24, 5, 0, 0, 0); os.execv(sys.argv[1], sys.argv[1:])"
# Attacks that every process of every host can make.
ANYBODY = [
    "read a file of the home folder",
    "list the home folder",
    "overwrite a file of the home folder",
    "make a file in /tmp",
    "read a file everybody can",
    "list the root folder",
    "open the guest for writing",
    "list the processes",
    "signal the parent",
    "kill a process",
    "connect to a unix socket by path",
    "connect to an abstract unix socket",
    "connect by TCP",
    "listen on TCP",
    "make a pair of sockets",
    "fork",
    "clone",
    "execute a program",
    "get executable memory",
    "make its memory executable",
    "make a file in memory",
    "become dumpable again",
    "outlive its parent",
    "change its folder",
]
# What Landlock keeps from a worker all by itself.
PATHS = [name for name in ATTACKS if " file " in f"{name} " and "memory" not in name and "handle" not in name]


def siege(guests: Path, *before: str) -> dict[str, str]:
    with tempfile.TemporaryDirectory(prefix="tg") as folder:
        return asyncio.run(asyncio.wait_for(besieged(Path(folder), ensure(guests).cwasm, *before), 90))


def without(*calls: str) -> list[str]:
    return [sys.executable, LESSER_KERNEL, ",".join(calls)]


@pytest.fixture(scope="module")
def told(guests: Path) -> dict[str, str]:
    """What each attack reached from one worker that stands behind all the walls of this host."""
    return siege(guests)


@pytest.mark.parametrize("name", ATTACKS)
def test_a_worker_that_was_taken_over_reaches_nothing(told, name):
    """The attack, made from inside the confined worker, is refused by the kernel."""
    assert told[name] == REFUSED


@pytest.mark.parametrize("name", ANYBODY)
def test_without_the_walls_the_attack_succeeds(tmp_path, name):
    """The same attack reaches its prey from a process with no walls around it: it is a real one."""
    guest = tmp_path / "guest"
    guest.write_bytes(b"\0" * 4096)
    with tempfile.TemporaryDirectory(prefix="tg") as folder, laid_out(Path(folder), guest, 1) as prey:
        assert unconfined(name, prey) != REFUSED
        Path(f"/tmp/{Path(folder).name}-made").unlink(missing_ok=True)


def test_the_system_call_list_holds_alone(guests):
    """On a kernel with no Landlock, no change of user and no namespaces, nothing is reached either."""
    told = siege(guests, *without(NO_LANDLOCK, "setresuid", "setgroups", "unshare", "capset"))
    assert {name for name, said in told.items() if said != REFUSED} == set()


def test_landlock_holds_every_path_alone(guests):
    """On a kernel with no seccomp, no change of user and no namespaces, no file is reached."""
    if not asyncio.run(walls(guests))["landlock"]:
        pytest.skip("this kernel has no Landlock")
    told = siege(guests, *without("seccomp", "setresuid", "setgroups", "unshare", "capset"))
    assert {name: told[name] for name in PATHS if told[name] != REFUSED} == {}


async def walls(guests: Path, *before: str) -> dict[str, bool]:
    worker = await Worker.start(worker_argv(ensure(guests).cwasm, *before))
    await worker.kill()
    return worker.walls


@pytest.mark.parametrize(
    ("missing", "down"),
    [
        (["landlock_create_ruleset"], {"landlock"}),
        (["seccomp"], {"seccomp"}),
        (["setresuid", "setgroups", "unshare"], {"user", "namespaces"}),
        (["capset"], {"capabilities"}),
    ],
)
def test_a_wall_that_cannot_be_had_is_not_claimed(guests, missing, down):
    """A worker serves without what the kernel does not have, and says so."""
    found = asyncio.run(walls(guests, *without(*missing)))
    assert [wall for wall in down if found[wall]] == []
    assert found["no-new-privileges"]
    assert found["dies-with-parent"]
    assert found["landlock"] or found["seccomp"]


@pytest.mark.parametrize(
    ("missing", "said"),
    [
        (["landlock_create_ruleset", "seccomp"], "neither Landlock nor seccomp"),
        (["prctl"], "prctl"),
    ],
)
def test_a_worker_without_the_least_of_walls_refuses_to_start(guests, missing, said):
    """With neither Landlock nor seccomp, or unable to die with its parent, a worker is not had, with a sentence."""
    with pytest.raises(SandboxUnavailable, match=said):
        asyncio.run(walls(guests, *without(*missing)))


def test_root_that_may_kill_nobody_keeps_its_workers_killable(guests):
    """Where root may not kill other users' processes, a worker stays its user and can be ended."""
    if os.getuid() != 0:
        pytest.skip("only root has this choice")
    program = f"""
import asyncio, sys
sys.path.insert(0, {ROOT!r})
from pathlib import Path
from sandboxes.model import Job, Limits
from sandboxes.pool import WasmPython
async def main():
    pool = WasmPython(Path({str(guests)!r}), workers=1, spares=0)
    await pool.start()
    running = asyncio.create_task(pool.run(Job("while True: pass", limits=Limits(wall=60))))
    await asyncio.sleep(0.2)
    await pool.close()
    print((await running).status, pool.pids)
asyncio.run(main())
"""
    argv = [sys.executable, "-c", GIVE_UP_KILL, sys.executable, "-c", program]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)
    assert (done.stdout, done.stderr) == ("crashed frozenset()\n", "")
