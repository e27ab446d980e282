"""The second wall: what a worker gives up before it serves, so that whoever takes it over holds nothing.

`shed` runs in the main thread while it is the only one; `seal` runs in the thread that serves, when everything is
loaded. Both tell which walls stand, as data. Needs no privilege, and uses some if it has it. Never gives anything back.
"""

import contextlib
import ctypes
import os
import platform
import resource
import signal
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from sandboxes.filter import NUMBERS, program
from sandboxes.model import MIB

WALLS: Final[Mapping[str, str]] = MappingProxyType(
    {
        "no-new-privileges": "nothing it could execute would raise its rights",
        "dies-with-parent": "it is killed when the process that started it ends",
        "user": "its user, or user namespace, is its own",
        "namespaces": "its network, IPC and host name are its own, and empty",
        "capabilities": "it has no capability",
        "undumpable": "no process of its user can read its memory",
        "landlock": "no path can be opened or changed, and no port, abstract socket or foreign process reached",
        "descriptors": "it holds its channel and its own guest's file, read-only, and nothing else",
        "limits": "no descriptor, process, file byte or core can be added, and little address space",
        "seccomp": "no system call is left but the few that serving takes",
    }
)
# Added to the pid: a range no distribution, container or user daemon hands out, and no two living processes share.
FIRST_USER: Final = 0x7000_0000
# Bytes of address space beyond what is mapped: a 64 MiB job as frame, text and program, an answer, the allocator.
HEADROOM: Final = 1024 * MIB
CHANNEL: Final = 0
# Descriptors a worker may have while it loads.
DESCRIPTORS: Final = 64
_PDEATHSIG, _DUMPABLE, _NO_NEW_PRIVS = 1, 4, 38
_READ_EXEC: Final = 1 | 4
_APART: Final = 0x04000000 | 0x08000000 | 0x40000000  # unshare: host name, IPC, network
_NEWUSER: Final = 0x10000000
_CAP_KILL: Final = 1 << 5
_CAPABILITIES_V3: Final = 0x20080522
_SET_FILTER, _EVERY_THREAD = 1, 1
_ABI_ASKED: Final = 1
# Landlock's filesystem rights, one bit each: how many there are in ABI 1, 2, 3, 4, 5 and later.
_RIGHTS: Final = (13, 14, 15, 15, 16)
_TCP: Final = 0b11  # bind, connect; from ABI 4
_SCOPES: Final = 0b11  # abstract unix sockets, signals; from ABI 6

# A system call by name, for those that neither libc nor Python has a function for. Raises `OSError`.
Call = Callable[..., int]


def kernel() -> Call:
    """Makes system calls by name and with integers or ctypes values."""
    libc = ctypes.CDLL(None, use_errno=True)
    numbers = NUMBERS.get(platform.machine(), {})

    def call(name: str, *arguments: object) -> int:
        if name not in numbers:
            raise OSError(f"the number of {name} is not known on {platform.machine()}")
        wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
        done = int(libc.syscall(ctypes.c_long(numbers[name]), *wide))
        if done < 0:
            raise OSError(ctypes.get_errno(), name)
        return done

    return call


def shed(parent: int) -> dict[str, bool]:
    """Gives up user, namespaces, capabilities and every path. The process must have one thread.

    parent: the pid to die with. Raises `OSError` if that, or the end of new privileges, cannot be had: on any host a
    worker could else outlive its parent or start something mightier. The other walls stand or do not.
    """
    call = kernel()
    walls = _leave_user(call)
    walls["capabilities"] = _stands(lambda: _drop_capabilities(call))
    # After the change of user, which undoes both.
    call("prctl", _PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        raise OSError("the parent is already gone")
    walls["undumpable"] = _stands(lambda: call("prctl", _DUMPABLE, 0, 0, 0, 0))
    call("prctl", _NO_NEW_PRIVS, 1, 0, 0, 0)
    walls["landlock"] = _stands(lambda: _no_paths(call))
    return {"no-new-privileges": True, "dies-with-parent": True, **walls}


@dataclass(frozen=True, slots=True)
class Loaded:
    """What the worker has when its guest is loaded. guest: device and inode of its file. room: bytes it may map.

    open_code: start and size of each piece of memory that is both writable and executable.
    """

    guest: tuple[int, int]
    room: int
    open_code: tuple[tuple[int, int], ...]


def loaded(guest: str, reserve: int) -> Loaded:
    """Looked at before `shed`, after which no path can. reserve: bytes of address space VMs may still map."""
    found = os.stat(guest)
    with open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[0])
    room = pages * resource.getpagesize() + reserve + HEADROOM
    return Loaded((found.st_dev, found.st_ino), room, _open_code())


def _open_code() -> tuple[tuple[int, int], ...]:
    """Where ctypes has written the ways from native code into ours, and whoever took over would write his own."""
    with open("/proc/self/maps") as maps:
        ranges = [line.split()[0].split("-") for line in maps if "wx" in line.split()[1]]
    return tuple((int(start, 16), int(end, 16) - int(start, 16)) for start, end in ranges)


def seal(walls: Mapping[str, bool], has: Loaded) -> dict[str, bool]:
    """Bounds what may still be had, and leaves every thread the system calls of serving only. Gives all walls.

    Memory that is both writable and executable is not writable from now on: no new way from native code into ours can
    be made. walls: those of `shed`. Raises `OSError` when neither Landlock nor seccomp stands: such a worker would be
    worth taking over.
    """
    call = kernel()
    for start, size in has.open_code:
        call("mprotect", start, size, _READ_EXEC)
    rest = {
        "descriptors": _holds_only(has.guest),
        "limits": _stands(lambda: _bound(has.room)),
        "seccomp": _stands(lambda: _filter(call)),
    }
    if not rest["seccomp"] and not walls["landlock"]:
        raise OSError("this kernel offers neither Landlock nor seccomp to confine a sandbox worker with")
    return {**walls, **rest}


def _stands(build: Callable[[], object]) -> bool:
    try:
        build()
    except (OSError, ValueError):
        return False
    return True


def _leave_user(call: Call) -> dict[str, bool]:
    """A user nobody else is, where we may choose; else a user namespace, in which the network and IPC are new too."""
    apart = _stands(lambda: call("unshare", _APART))
    user = os.geteuid() == 0 and _parent_may_kill_others() and _stands(_become_nobody_else)
    if not user:
        user = _stands(lambda: call("unshare", _NEWUSER))
        apart = apart or (user and _stands(lambda: call("unshare", _APART)))
    return {"user": user, "namespaces": apart}


def _parent_may_kill_others() -> bool:
    """Whether a parent of our user could end a worker of another: a root user in a container may not be allowed to."""
    with open("/proc/self/status") as status:
        effective = next(line.split()[1] for line in status if line.startswith("CapEff:"))
    return bool(int(effective, 16) & _CAP_KILL)


def _become_nobody_else() -> None:
    own = FIRST_USER + os.getpid()
    os.setgroups([])
    os.setresgid(own, own, own)
    os.setresuid(own, own, own)


def _drop_capabilities(call: Call) -> None:
    header, none = struct.pack("Ii", _CAPABILITIES_V3, 0), bytes(24)
    call("capset", ctypes.c_char_p(header), ctypes.c_char_p(none))


def _no_paths(call: Call) -> None:
    """A Landlock ruleset that handles everything this kernel knows, without a rule that allows any of it."""
    abi = call("landlock_create_ruleset", 0, 0, _ABI_ASKED)
    rights = (1 << _RIGHTS[min(abi, len(_RIGHTS)) - 1]) - 1
    handled = struct.pack("Q", rights)
    if abi >= 4:
        handled += struct.pack("Q", _TCP)
    if abi >= 6:
        handled += struct.pack("Q", _SCOPES)
    ruleset = call("landlock_create_ruleset", ctypes.c_char_p(handled), len(handled), 0)
    try:
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _holds_only(guest: tuple[int, int]) -> bool:
    """Closes the standard streams but the channel, and looks through what is left."""
    os.closerange(CHANNEL + 1, 3)
    found = []
    for descriptor in range(CHANNEL + 1, DESCRIPTORS):
        with contextlib.suppress(OSError):
            file = os.fstat(descriptor)
            found.append((file.st_dev, file.st_ino))
    return set(found) <= {guest}


def _bound(room: int) -> None:
    none = (0, 0)
    for limit, most in (
        (resource.RLIMIT_NOFILE, (CHANNEL + 1, CHANNEL + 1)),
        (resource.RLIMIT_NPROC, none),
        (resource.RLIMIT_FSIZE, none),
        (resource.RLIMIT_CORE, none),
        (resource.RLIMIT_MEMLOCK, none),
        (resource.RLIMIT_MSGQUEUE, none),
        (resource.RLIMIT_AS, (room, room)),
    ):
        resource.setrlimit(limit, most)


def _filter(call: Call) -> None:
    steps = ctypes.create_string_buffer(code := program(platform.machine()), len(code))
    whole = struct.pack("HxxxxxxQ", len(code) // 8, ctypes.addressof(steps))
    if call("seccomp", _SET_FILTER, _EVERY_THREAD, ctypes.c_char_p(whole)) != 0:
        raise OSError("a thread did not take the filter")
