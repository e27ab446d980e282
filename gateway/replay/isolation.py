"""An empty network namespace for a process that must not reach anything: no interface, no route, no name server.

What already listens goes on listening where it was. It must run while the process has one thread. It never gives the
old network back.
"""

from __future__ import annotations

import os

from sandboxes.confine import Call, kernel

_NEWNET, _NEWUSER = 0x40000000, 0x10000000


def isolate() -> str | None:
    """Moves the process there; gives why not, where the kernel does not let it."""
    try:
        call = kernel()
        try:
            call("unshare", _NEWNET)
        except PermissionError:  # who is not the superuser gets a network with a user namespace only
            _with_own_users(call)
    except OSError as error:
        return error.strerror or str(error)
    return None


def _with_own_users(call: Call) -> None:
    """Users and groups of the new namespace are those of the old, so that files belong to whom they did."""
    uid, gid = os.geteuid(), os.getegid()
    call("unshare", _NEWUSER | _NEWNET)
    for name, said in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(said)
