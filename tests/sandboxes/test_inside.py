"""A runner image in a hardened container, under our seccomp profile: what works there, and what does not.

Needs a Docker engine. Each test has one container of its own; many probes share it as parts of one program.
"""

from __future__ import annotations

import asyncio
import errno
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import sandboxes
from sandboxes.answers import Answer
from sandboxes.frames import unpack_object
from sandboxes.model import MIB, Job, Limits
from sandboxes.talk import Channel, Talk
from sandboxes.template import SOCKET, Shape, container
from tests.engine import Engine

PROFILE = (Path(sandboxes.__file__).parent / "profiles" / "seccomp.json").read_text()
# Bounds a hang; no test measures time.
PATIENCE = 90
LIMITS = Limits(wall=60, memory=64 * MIB, disk=4 * MIB, pids=16, files_out=MIB)


class Containers:
    """Runs jobs, each in a container of its own."""

    def __init__(self, engine: Engine) -> None:
        self.images = engine.images
        self._client = engine.client()

    def run(self, program: str, image: str = "python", **fields: object) -> Answer:
        job = Job(program, limits=LIMITS, **fields)  # type: ignore[arg-type]  # a mixed bag
        return asyncio.run(asyncio.wait_for(self._in_container(image, job), PATIENCE))[1]

    def facts(self) -> tuple[dict[str, object], int]:
        """What the runner says of its container, and the anonymous memory of all that idles in it, in bytes."""
        ready, _answer, anonymous = asyncio.run(asyncio.wait_for(self._in_container("python", Job("")), PATIENCE))
        facts = ready["facts"]
        assert isinstance(facts, dict)
        return facts, anonymous

    def close(self) -> None:
        self._client.close()

    async def _in_container(self, image: str, job: Job) -> tuple[dict[str, object], Answer, int]:
        arrived: asyncio.Future[Channel] = asyncio.get_running_loop().create_future()

        def accept() -> Channel:
            arrived.set_result(Channel())
            return arrived.result()

        async def no_tools(_name: str, _args: bytes) -> bytes:
            return b"null"

        with tempfile.TemporaryDirectory(prefix="tg", dir="/tmp") as folder:  # a socket's path must be short
            server = await asyncio.get_running_loop().create_unix_server(accept, f"{folder}/{SOCKET}")
            os.chmod(folder, 0o755)
            os.chmod(f"{folder}/{SOCKET}", 0o666)
            body = container(Shape.of(self.images[image], "runc", job.limits), folder, PROFILE, {})
            made = await asyncio.to_thread(self._client.api.create_container_from_config, body)
            try:
                await asyncio.to_thread(self._client.api.start, made["Id"])
                channel = await arrived
                ready = unpack_object(await channel.frame())
                anonymous = 0 if job.program else await asyncio.to_thread(self._anonymous, made["Id"])
                answer, _ms = await Talk(job, no_tools).run(channel, job.limits.wall)
                return ready, answer, anonymous
            finally:
                await asyncio.to_thread(self._client.api.remove_container, made["Id"], force=True)
                server.close()

    def _anonymous(self, container_id: str) -> int:
        stats = self._client.api.stats(container_id, stream=False)["memory_stats"]["stats"]
        return int(stats["rss"] if "rss" in stats else stats["anon"])


@pytest.fixture(scope="module")
def containers(engine: Engine) -> Iterator[Containers]:
    """The engine's containers."""
    containers = Containers(engine)
    yield containers
    containers.close()


def test_a_container_is_what_it_should_be(containers: Containers) -> None:
    """By its own account: no capability, no network, a filter, a read-only root, the limits asked for; and it is small.

    The memory is what no other container shares; a bare interpreter has 2.7 MiB of it.
    """
    facts, anonymous = containers.facts()
    assert (facts["uid"], facts["gid"], facts["cap_eff"]) == (65534, 65534, "0" * 16)
    assert (facts["seccomp"], facts["no_new_privs"], facts["root_readonly"]) == (2, True, True)
    assert (facts["interfaces"], facts["memory_limit"]) == (["lo"], Limits().memory)
    assert facts["pids_limit"] in range(Limits().pids, Limits().pids + 16)
    assert anonymous < 7 * MIB


WORKS = """
import asyncio, ctypes, concurrent.futures, hashlib, multiprocessing, os, select, shutil, signal, socket, sqlite3
import subprocess, tempfile, threading, time
done = {}
done["thread"] = concurrent.futures.ThreadPoolExecutor(3).submit(lambda: 7).result()
done["subprocess"] = subprocess.run("echo a | tr a b; exit 4", shell=True, capture_output=True, text=True).stdout
done["fork"] = os.waitstatus_to_exitcode(os.waitpid(os.fork() or os._exit(5), 0)[1])
done["asyncio"] = asyncio.run(asyncio.sleep(0, 8))
done["epoll"] = len(select.epoll().poll(0))
a, b = socket.socketpair(); a.send(b"hi"); done["socketpair"] = b.recv(9).decode()
with tempfile.TemporaryDirectory() as folder:
    open(folder + "/f", "wb").write(b"x" * 9); shutil.copy(folder + "/f", folder + "/g"); os.mkfifo(folder + "/p")
    os.link(folder + "/f", folder + "/h"); os.rename(folder + "/h", folder + "/i"); os.chmod(folder + "/i", 0o600)
    done["files"] = sorted(os.listdir(folder))
    db = sqlite3.connect(folder + "/db"); db.execute("create table t (a)"); db.commit(); db.close()
parent, child = multiprocessing.Pipe()
process = multiprocessing.get_context("fork").Process(target=lambda: child.send(6)); process.start(); process.join()
done["multiprocessing"] = parent.recv()
signal.signal(signal.SIGALRM, lambda *a: done.update(alarm=1))
signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(1)
done["random"] = len(os.urandom(5)) + len(hashlib.sha256().digest())
os.nice(1); os.sched_getaffinity(0); os.getloadavg(); os.times(); os.uname(); os.getpgid(0)
result = done
"""


def test_python_works_under_the_profile(containers: Containers) -> None:
    """Threads, processes, pipes, local sockets, files, databases, timers and signals do what they do elsewhere."""
    answer = containers.run(WORKS)
    assert answer.stderr == ""
    assert answer.value == {
        "thread": 7,
        "subprocess": "b\n",
        "fork": 5,
        "asyncio": 8,
        "epoll": 0,
        "socketpair": "hi",
        "files": ["f", "g", "i", "p"],
        "multiprocessing": 6,
        "alarm": 1,
        "random": 37,
    }


SHELL = """
set -eu
seq 1 20 | sort -rn | head -n 3 | paste -sd, ; seq 5 | grep -c '[24]'
echo abc | sed s/b/x/; echo a b | awk '{print $2}'
mkdir d; cp ARGS d/x; mv d/x d/y; ln -s y d/z; find d -type f; cat d/z; echo
wc -c < d/y; tar cf t.tar d; tar tf t.tar | sort
printf '%s\\n' b a | sort -o sorted; diff -q sorted ARGS || true; date -d @0 -u +%Y
for i in 1 2 3; do sleep 0 & done; wait
trap 'echo trapped' USR1; kill -USR1 $$; test -n "$(mktemp)"; id -u; xargs -n 1 echo < sorted; touch -d @0 old; rm -r d
"""
SHOWN = (
    '20,19,18\n2\naxc\nb\nd/y\n{"n": 7}\n8\nd/\nd/y\nd/z\nFiles sorted and ARGS differ\n1970\ntrapped\n65534\na\nb\n'
)


def test_a_shell_works_under_the_profile(containers: Containers) -> None:
    """Pipes, jobs, traps and the usual programs do what they do elsewhere; what the script leaves comes back."""
    answer = containers.run(SHELL, "shell", command=("bash",), input=b'{"n": 7}')
    assert answer.stderr == ""
    assert answer.stdout.splitlines() == SHOWN.splitlines()
    assert answer.files["sorted"] == b"a\nb\n"


DENIED = """
import ctypes, errno, os, socket
libc = ctypes.CDLL(None, use_errno=True)
def ask(number, *arguments):
    ctypes.set_errno(0)
    return "done" if libc.syscall(number, *arguments) >= 0 else errno.errorcode[ctypes.get_errno()]
numbers = dict(ptrace=101, mount=165, umount2=166, pivot_root=155, unshare=272, setns=308, keyctl=250, add_key=248,
    bpf=321, perf_event_open=298, userfaultfd=323, io_uring_setup=425, process_vm_readv=310, kcmp=312, pidfd_getfd=438,
    open_by_handle_at=304, name_to_handle_at=303, init_module=175, kexec_load=246, fsopen=430, open_tree=428,
    move_mount=429, mount_setattr=442, memfd_create=319, execveat=322, chroot=161, personality=135, shmget=29,
    msgget=68, mq_open=240, swapon=167, reboot=169, sethostname=170, iopl=172, modify_ldt=154, syslog=103,
    acct=163, quotactl=179,
    fanotify_init=300, seccomp=317, landlock_create_ruleset=444, setuid=105, vmsplice=278, clock_settime=227)
found = {name: ask(number, 0, 0, 0, 0, 0, 0) for name, number in numbers.items()}
found["clone3"] = ask(435, 0, 0)
for flag in (0x20000, 0x2000000, 0x4000000, 0x8000000, 0x10000000, 0x20000000, 0x40000000):
    found[f"clone {flag:#x}"] = ask(56, flag | 17, 0, 0, 0, 0)
for family in range(2, 46):
    for kind in (1, 2, 3):
        found[f"socket {family} {kind}"] = ask(41, family, kind, 0)
result = found
"""


def test_the_kernel_is_mostly_out_of_reach(containers: Containers) -> None:
    """Calls that have undone sandboxes, namespaces, and every family of sockets but the local one are refused."""
    answer = containers.run("import os; result = os.uname().machine")
    if answer.value != "x86_64":
        pytest.skip("the numbers of system calls are those of x86_64")
    answer = containers.run(DENIED)
    assert isinstance(answer.value, dict)
    assert answer.value.pop("clone3") == "ENOSYS"
    assert {name: said for name, said in answer.value.items() if said != "EPERM"} == {}


REACH = """
import os
def attempt(path, flags=os.O_RDONLY):
    try:
        os.open(path, flags)
        return "opened"
    except OSError as error:
        return error.errno
runner = os.getppid()
found = {name: attempt(f"/proc/{runner}/{name}") for name in ("mem", "environ", "maps", "fd/3")}
found["root"] = attempt("/new", os.O_CREAT | os.O_WRONLY)
found["gate"] = attempt("/run/toolgate/new", os.O_CREAT | os.O_WRONLY)
found["runner"] = attempt("/opt/toolgate/sandboxes/images/inside/runner.py", os.O_WRONLY)
found["engine"] = attempt("/var/run/docker.sock")
with open("/tmp/program", "w") as file: file.write("#!/bin/sh")
os.chmod("/tmp/program", 0o700)
try: os.execv("/tmp/program", ["program"])
except OSError as error: found["exec"] = error.errno
found["raised"] = os.system("find / -xdev -perm /6000 -type f 2>/dev/null | grep -q .")
result = found
"""


def test_the_program_reaches_neither_the_runner_nor_the_root(containers: Containers) -> None:
    """The runner's memory and descriptors are closed to its child; nothing but scratch space can be written."""
    closed = dict.fromkeys(("mem", "environ", "maps", "fd/3"), errno.EACCES)
    assert containers.run(REACH).value == closed | {
        "root": errno.EROFS,
        "gate": errno.EROFS,
        "runner": errno.EACCES,
        "engine": errno.ENOENT,
        "exec": errno.EACCES,
        "raised": 256,
    }


KILLS = """
import os, signal
for number in range(1, 65):
    os.kill(1, number)
    try: os.kill(-1, signal.SIGKILL)
    except ProcessLookupError: pass
result = os.getppid()
"""


def test_the_program_cannot_end_the_runner(containers: Containers) -> None:
    """The runner is the container's first process, which the kernel lets no signal from inside end or stop."""
    answer = containers.run(KILLS)
    assert (answer.status, answer.value, answer.stderr) == ("ok", 1, "")


@pytest.mark.parametrize(
    ("program", "command", "limit"),
    [
        ("x = []\nwhile True: x.append(bytearray(1 << 20))", (), "memory"),
        ("import os\nwhile True: os.fork() or __import__('time').sleep(9)", (), "pids"),
        ("import threading, time\nwhile True: threading.Thread(target=time.sleep, args=(9,)).start()", (), "pids"),
        ("f = open('a', 'wb', 0)\nwhile True: f.write(bytes(1 << 16))", (), "disk"),
        ("for i in range(99): open(str(i), 'wb').write(bytes(1 << 20))", (), "disk"),
        ("for i in range(10**6): open(str(i), 'wb')", (), "disk"),
        ("open('a', 'wb').truncate(1 << 40)", (), "disk"),
        ("head -c 20M /dev/zero > a", ("sh",), "disk"),
        ("for i in $(seq 99); do sleep 9 & done", ("bash",), "pids"),
    ],
)
def test_a_limit_that_was_met_is_named(
    containers: Containers, program: str, command: tuple[str, ...], limit: str
) -> None:
    """Memory, processes, threads, bytes and inodes: the kernel stops the program, and the answer says which it was."""
    answer = containers.run(program, "shell" if command else "python", command=command)
    assert (answer.status, answer.limit) == ("limit", limit), answer.stderr
