"""Starts a program as on a kernel without some system calls: they are not there for it and all it starts.

`python lesser_kernel.py NAME,NAME… PROGRAM ARGUMENT…`. Never runs the program in this process's own right.
"""

import ctypes
import os
import platform
import struct
import sys

MISSING = {
    "x86_64": {
        "landlock_create_ruleset": 444,
        "seccomp": 317,
        "unshare": 272,
        "setgroups": 116,
        "setresuid": 117,
        "capset": 126,
        "prctl": 157,
    },
    "aarch64": {
        "landlock_create_ruleset": 444,
        "seccomp": 277,
        "unshare": 97,
        "setgroups": 159,
        "setresuid": 147,
        "capset": 91,
        "prctl": 167,
    },
}
LOAD, EQUAL, RETURN, ALLOW, NO_SUCH_CALL = 0x20, 0x15, 0x06, 0x7FFF0000, 0x00050026
NO_NEW_PRIVS, SET_SECCOMP, MODE_FILTER = 38, 22, 2


def take_away(names: list[str]) -> None:
    """Installs the filter. Raises `OSError` where the kernel has none."""
    steps = [(LOAD, 0, 0, 0)]
    for name in names:
        steps += [(EQUAL, 0, 1, MISSING[platform.machine()][name]), (RETURN, 0, 0, NO_SUCH_CALL)]
    steps.append((RETURN, 0, 0, ALLOW))
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *step) for step in steps))
    whole = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", len(steps), ctypes.addressof(code)))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(NO_NEW_PRIVS, 1, 0, 0, 0) or libc.prctl(SET_SECCOMP, MODE_FILTER, whole, 0, 0):
        raise OSError(ctypes.get_errno(), "prctl")


if __name__ == "__main__":
    take_away(sys.argv[1].split(","))
    os.execv(sys.argv[2], sys.argv[2:])
