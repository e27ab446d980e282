"""What somebody who has taken over a worker would try, as plain Python that runs inside it with the worker's rights.

Each attack returns what it got, or raises `OSError` when it was refused. None does lasting harm where it is not: what
it kills, traces or overwrites are victims laid out for it. Never used outside of proofs.
"""

from __future__ import annotations

import ctypes
import os
import platform
import resource
import signal
import socket
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

LIBC = ctypes.CDLL(None, use_errno=True)
# By machine: those calls that libc has no function for.
_NUMBERS: Mapping[str, Mapping[str, int]] = {
    "x86_64": {"bpf": 321, "userfaultfd": 323, "keyctl": 250, "perf_event_open": 298, "clone": 56, "getrandom": 318},
    "aarch64": {"bpf": 280, "userfaultfd": 282, "keyctl": 219, "perf_event_open": 241, "clone": 220, "getrandom": 278},
}
# Code that ctypes has written at run time.
_WRITTEN = ctypes.CFUNCTYPE(None)(lambda: None)
_IO_URING_SETUP, _PIDFD_GETFD = 425, 438
_PAGE, _READ, _WRITE, _EXEC, _SHARED, _PRIVATE, _ANONYMOUS, _NORESERVE = 4096, 1, 2, 4, 1, 2, 0x20, 0x4000
_PTRACE_SEIZE, _NEWNS, _NEWUSER, _AT_FDCWD = 0x4206, 0x20000, 0x10000000, -100


@dataclass(frozen=True, slots=True)
class Prey:
    """What is laid out: pids, an address in the parent with what stands there, files, sockets."""

    parent: int
    worker: int
    victim: int
    address: int
    size: int
    folder: str
    guest: str
    abstract: str
    port: int

    @property
    def secret(self) -> str:
        return f"{self.folder}/secret.txt"


Attack = Callable[[Prey], object]


def _done(result: int) -> int:
    """The result of a libc call. Raises `OSError` for -1."""
    if result == -1:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _raw(name: str, *arguments: object) -> int:
    numbers = _NUMBERS[platform.machine()]
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    return _done(int(LIBC.syscall(ctypes.c_long(numbers[name]), *wide)))


def _content(path: str) -> str:
    with open(path, "rb") as file:
        return repr(file.read(64))


def _written(path: str) -> str:
    with open(path, "r+b") as file:
        return f"opened as {file.fileno()}"


def _made(path: str) -> str:
    os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))
    return path


def _memory_of(pid: int, address: int, size: int) -> str:
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        memory.seek(address)
        return repr(memory.read(size))


def _connected(family: int, address: object) -> str:
    with socket.socket(family, socket.SOCK_STREAM) as one:
        one.connect(address)  # type: ignore[arg-type]  # an address of whichever family
        return f"connected to {address!r}"


def _socket(family: int, kind: int = socket.SOCK_RAW, protocol: int = 0) -> str:
    with socket.socket(family, kind, protocol):
        return f"a socket of family {family}"


def _listening() -> str:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        one.listen()
        return f"listening at {one.getsockname()}"


def _moved(prey: Prey, call: Callable[..., int]) -> str:
    """`process_vm_readv` or `process_vm_writev` between us and the parent."""
    buffer = ctypes.create_string_buffer(prey.size)
    ours = struct.pack("QQ", ctypes.addressof(buffer), prey.size)
    theirs = struct.pack("QQ", prey.address, prey.size)
    return f"{_done(call(prey.parent, ours, 1, theirs, 1, 0))} bytes"


def _forked() -> str:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    return f"a child {pid}"


def _cloned() -> str:
    pid = _raw("clone", int(signal.SIGCHLD), 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return f"a child {pid}"


def _seized(pid: int) -> str:
    LIBC.ptrace(ctypes.c_long(_PTRACE_SEIZE), ctypes.c_long(pid), None, None)
    return str(_done(0 if ctypes.get_errno() == 0 else -1))


def _stolen_descriptor(prey: Prey) -> str:
    pidfd = os.pidfd_open(prey.parent)
    return str(_done(int(LIBC.syscall(ctypes.c_long(_PIDFD_GETFD), pidfd, 0, 0))))


def _mapped(protection: int, flags: int, descriptor: int = -1, size: int = _PAGE) -> int:
    LIBC.mmap.restype = ctypes.c_long
    zero = ctypes.c_long(0)
    return _done(int(LIBC.mmap(zero, ctypes.c_long(size), protection, flags, descriptor, zero)))


def _made_executable() -> int:
    page = _mapped(_READ | _WRITE, _PRIVATE | _ANONYMOUS)
    return _done(int(LIBC.mprotect(ctypes.c_long(page), ctypes.c_long(_PAGE), _READ | _EXEC)))


def _rewritten() -> str:
    """Has the kernel write where ctypes wrote code: it says no where the memory does."""
    place = ctypes.cast(_WRITTEN, ctypes.c_void_p).value or 0
    return f"{_raw('getrandom', place, 8, 0)} bytes of code"


def _guest_descriptor(prey: Prey) -> int:
    """A descriptor that is neither the channel nor a standard stream: in a worker, its guest's file, if still open."""
    return next((fd for fd in range(3, 64) if LIBC.fcntl(fd, 1) >= 0), 3)


def _passed_on(prey: Prey) -> str:
    """Sends a descriptor of ours away over the channel, as a smuggler of files would."""
    with socket.socket(fileno=os.dup(0)) as channel:
        socket.send_fds(channel, [b"\0"], [0])
    return "sent"


def _shared_memory() -> int:
    return _done(int(LIBC.shmget(0, ctypes.c_long(_PAGE), 0o1600)))


def _limits_raised() -> str:
    most = resource.RLIM_INFINITY
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
    except ValueError as error:  # how this module says EPERM
        raise OSError(str(error)) from None
    return "raised"


def _slowed(prey: Prey) -> str:
    os.setpriority(os.PRIO_PROCESS, prey.victim, 19)
    return "slowed"


# What is tried, each under the name a table prints.
ATTACKS: Mapping[str, Attack] = MappingProxyType(
    {
        "read a file of the home folder": lambda prey: _content(prey.secret),
        "list the home folder": lambda prey: os.listdir(prey.folder),
        "overwrite a file of the home folder": lambda prey: _written(prey.secret),
        "make a file in the home folder": lambda prey: _made(f"{prey.folder}/made"),
        "remove a file of the home folder": lambda prey: os.unlink(f"{prey.folder}/spare.txt"),
        "link to a file of the home folder": lambda prey: os.link(prey.secret, f"{prey.folder}/link"),
        "make a file in /tmp": lambda prey: _made(f"/tmp/{os.path.basename(prey.folder)}-made"),
        "read a file everybody can": lambda prey: _content("/etc/passwd"),
        "list the root folder": lambda prey: os.listdir("/"),
        "read the worker's own source": lambda prey: _content(__file__),
        "open a device": lambda prey: _content("/dev/zero"),
        "open the guest for writing": lambda prey: _written(prey.guest),
        "reopen the guest through /proc": lambda prey: _written(f"/proc/self/fd/{_guest_descriptor(prey)}"),
        "write through a descriptor it holds": lambda prey: os.write(_guest_descriptor(prey), b"x"),
        "map the guest's file for writing": lambda prey: _mapped(_READ | _WRITE, _SHARED, _guest_descriptor(prey)),
        "read the parent's memory in /proc": lambda prey: _memory_of(prey.parent, prey.address, prey.size),
        "read the parent's memory by call": lambda prey: _moved(prey, LIBC.process_vm_readv),
        "write the parent's memory by call": lambda prey: _moved(prey, LIBC.process_vm_writev),
        "read the parent's environment": lambda prey: _content(f"/proc/{prey.parent}/environ"),
        "list the parent's descriptors": lambda prey: os.listdir(f"/proc/{prey.parent}/fd"),
        "take a descriptor of the parent": _stolen_descriptor,
        "read another worker's environment": lambda prey: _content(f"/proc/{prey.worker}/environ"),
        "read another worker's map": lambda prey: _content(f"/proc/{prey.worker}/maps"),
        "list the processes": lambda prey: os.listdir("/proc"),
        "signal the parent": lambda prey: os.kill(prey.parent, 0),
        "signal another worker": lambda prey: os.kill(prey.worker, 0),
        "kill a process": lambda prey: os.kill(prey.victim, signal.SIGKILL),
        "signal its process group": lambda prey: os.killpg(os.getpgid(prey.parent), 0),
        "trace a process": lambda prey: _seized(prey.victim),
        "slow a process down": _slowed,
        "connect to a unix socket by path": lambda prey: _connected(socket.AF_UNIX, f"{prey.folder}/socket"),
        "connect to an abstract unix socket": lambda prey: _connected(socket.AF_UNIX, f"\0{prey.abstract}"),
        "connect to the docker socket": lambda prey: _connected(socket.AF_UNIX, f"{prey.folder}/docker.sock"),
        "connect by TCP": lambda prey: _connected(socket.AF_INET, ("127.0.0.1", prey.port)),
        "connect to the metadata address": lambda prey: _socket(socket.AF_INET, socket.SOCK_STREAM),
        "listen on TCP": lambda prey: _listening(),
        "open a UDP socket": lambda prey: _socket(socket.AF_INET6, socket.SOCK_DGRAM),
        "open a raw socket": lambda prey: _socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
        "open a netlink socket": lambda prey: _socket(socket.AF_NETLINK),
        "open a packet socket": lambda prey: _socket(socket.AF_PACKET),
        "open a socket to the hypervisor": lambda prey: _socket(socket.AF_VSOCK, socket.SOCK_STREAM),
        "open a kernel crypto socket": lambda prey: _socket(socket.AF_ALG, socket.SOCK_SEQPACKET),
        "make a pair of sockets": lambda prey: socket.socketpair(),
        "pass a descriptor on": _passed_on,
        "fork": lambda prey: _forked(),
        "clone": lambda prey: _cloned(),
        "execute a program": lambda prey: os.execv("/bin/true", ["true"]),
        "get executable memory": lambda prey: _mapped(_READ | _WRITE | _EXEC, _PRIVATE | _ANONYMOUS),
        "make its memory executable": lambda prey: _made_executable(),
        "write into executable memory": lambda prey: _rewritten(),
        "get 64 GiB of memory": lambda prey: _mapped(_READ | _WRITE, _PRIVATE | _ANONYMOUS | _NORESERVE, size=1 << 36),
        "make a file in memory": lambda prey: os.memfd_create("x"),
        "get shared memory": lambda prey: _shared_memory(),
        "raise its limits": lambda prey: _limits_raised(),
        "become root": lambda prey: os.setuid(0),
        "make a user namespace": lambda prey: _done(LIBC.unshare(_NEWUSER)),
        "make a mount namespace": lambda prey: _done(LIBC.unshare(_NEWNS)),
        "mount": lambda prey: _done(LIBC.mount(b"none", prey.folder.encode(), b"tmpfs", 0, None)),
        "change its root": lambda prey: os.chroot(prey.folder),
        "change its folder": lambda prey: os.chdir(prey.folder),
        "become dumpable again": lambda prey: _done(LIBC.prctl(4, 1, 0, 0, 0)),
        "outlive its parent": lambda prey: _done(LIBC.prctl(1, 0, 0, 0, 0)),
        "use io_uring": lambda prey: _done(
            LIBC.syscall(ctypes.c_long(_IO_URING_SETUP), 1, ctypes.create_string_buffer(120))
        ),
        "use userfaultfd": lambda prey: _raw("userfaultfd", 0),
        "use bpf": lambda prey: _raw(
            "bpf", 0, ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 4, 1, 0), 72), 72
        ),
        "use the kernel's keys": lambda prey: _raw("keyctl", 0, -3, 1),
        "use perf events": lambda prey: _raw(
            "perf_event_open", ctypes.create_string_buffer(struct.pack("II", 1, 112), 112), 0, -1, -1, 0
        ),
        "open a file by handle": lambda prey: _done(
            LIBC.open_by_handle_at(_AT_FDCWD, ctypes.create_string_buffer(struct.pack("Ii", 8, 1), 64), 0)
        ),
        "read the kernel's log": lambda prey: _done(LIBC.klogctl(10, None, 0)),
        "set the host's name": lambda prey: _done(LIBC.sethostname(b"taken", 5)),
    }
)


def tried(name: str, prey: Prey) -> str | None:
    """What the attack got; None when it was refused."""
    try:
        got = ATTACKS[name](prey)
    except OSError:
        return None
    return str(got)[:200]
