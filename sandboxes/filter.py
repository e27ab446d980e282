"""The system calls of a worker that serves, as a seccomp program in classic BPF, for x86_64 and aarch64.

An allow-list: what is not on it fails with EPERM and is not killed, since libraries ask for harmless things now and
then (malloc reads a file under /proc/sys) and live with a no, while a killed worker is a caller's lost job. A call of
another architecture kills. Pure: assembles bytes, installs nothing.
"""

import errno
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

# What the worker's two threads use from `ready` to the end, as traced, and what a signal or an abort leads to.
SERVING: Final = (
    "recvfrom",
    "sendto",
    "pselect6",
    "poll",
    "ppoll",
    "select",
    "futex",
    "sched_yield",
    "clock_gettime",
    "clock_nanosleep",
    "madvise",
    "munmap",
    "mremap",
    "brk",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sigaltstack",
    "restart_syscall",
    "getrandom",
    "gettid",
    "exit",
    "exit_group",
)
# Allowed too, but not to make memory executable: all native code was mapped before.
EXEC_REFUSED: Final = ("mmap", "mprotect")
# Denied as if this kernel had none: wasmtime then copies a module's first memory into place instead of mapping it.
ABSENT: Final = ("memfd_create",)
_X86: Final = {
    "poll": 7,
    "mmap": 9,
    "mprotect": 10,
    "munmap": 11,
    "brk": 12,
    "rt_sigaction": 13,
    "rt_sigprocmask": 14,
    "rt_sigreturn": 15,
    "select": 23,
    "sched_yield": 24,
    "mremap": 25,
    "madvise": 28,
    "sendto": 44,
    "recvfrom": 45,
    "exit": 60,
    "capset": 126,
    "sigaltstack": 131,
    "prctl": 157,
    "gettid": 186,
    "futex": 202,
    "restart_syscall": 219,
    "clock_gettime": 228,
    "clock_nanosleep": 230,
    "exit_group": 231,
    "pselect6": 270,
    "ppoll": 271,
    "unshare": 272,
    "seccomp": 317,
    "getrandom": 318,
    "memfd_create": 319,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
}
_ARM: Final = {
    "pselect6": 72,
    "ppoll": 73,
    "capset": 91,
    "exit": 93,
    "exit_group": 94,
    "unshare": 97,
    "futex": 98,
    "clock_gettime": 113,
    "clock_nanosleep": 115,
    "sched_yield": 124,
    "restart_syscall": 128,
    "sigaltstack": 132,
    "rt_sigaction": 134,
    "rt_sigprocmask": 135,
    "rt_sigreturn": 139,
    "prctl": 167,
    "gettid": 178,
    "sendto": 206,
    "recvfrom": 207,
    "brk": 214,
    "munmap": 215,
    "mremap": 216,
    "mmap": 222,
    "mprotect": 226,
    "madvise": 233,
    "seccomp": 277,
    "getrandom": 278,
    "memfd_create": 279,
    "landlock_create_ruleset": 444,
    "landlock_restrict_self": 446,
}
# By machine; aarch64 has no poll and no select of their own.
NUMBERS: Final[Mapping[str, Mapping[str, int]]] = MappingProxyType({"x86_64": _X86, "aarch64": _ARM})
_ARCH: Final = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}

_LOAD, _EQUAL, _BITS, _RETURN = 0x20, 0x15, 0x45, 0x06
_ALLOW, _ERRNO, _KILL = 0x7FFF0000, 0x00050000, 0x80000000
# Offsets in `struct seccomp_data`: number, architecture, and the low half of the third argument (protection).
_NUMBER, _MACHINE, _PROTECTION = 0, 4, 32
_PROT_EXEC: Final = 4


def program(machine: str) -> bytes:
    """The filter as an array of `struct sock_filter`. Raises `ValueError` for a machine that is not known."""
    if machine not in NUMBERS:
        raise ValueError(f"no seccomp filter is known for {machine}")
    numbers = NUMBERS[machine]
    # Six steps end the program; each test jumps to the one of them that is its answer.
    tests = [(numbers[name], 3) for name in SERVING if name in numbers]
    tests += [(numbers[name], 1) for name in EXEC_REFUSED] + [(numbers[name], 5) for name in ABSENT]
    steps = [
        (_LOAD, 0, 0, _MACHINE),
        (_EQUAL, 1, 0, _ARCH[machine]),
        (_RETURN, 0, 0, _KILL),
        (_LOAD, 0, 0, _NUMBER),
        *((_EQUAL, len(tests) - 1 - place + end, 0, number) for place, (number, end) in enumerate(tests)),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_LOAD, 0, 0, _PROTECTION),
        (_BITS, 1, 0, _PROT_EXEC),
        (_RETURN, 0, 0, _ALLOW),
        (_RETURN, 0, 0, _ERRNO | errno.EPERM),
        (_RETURN, 0, 0, _ERRNO | errno.ENOSYS),
    ]
    return b"".join(struct.pack("HBBI", *step) for step in steps)
