"""What the worker asks of a guest, whatever language it runs: fresh VMs, one run in each, an answer.

Protocols and one exception only. Never loads wasmtime, never starts anything.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final, Protocol

from sandboxes.model import GUARANTEES

# Answers a call that comes out of a VM: the name and the arguments as JSON text, to the reply as JSON text.
OnGuestCall = Callable[[str, str], str]
# A VM as its own guest knows it; nobody else looks inside.
VM = Any
# What a guest without imports, in a process that can be killed, gives on any host.
WASM_GUARANTEES: Final = frozenset(GUARANTEES) - {"no-shared-kernel", "cpu-cap"}


class Stopped(Exception):
    """Raised out of a guest's call to end its VM. `how` goes to the parent, with the guest's answer if it gave one."""

    def __init__(self, how: str, answer: str | None = None) -> None:
        super().__init__(how)
        self.how = how
        self.answer = answer


class Ticking(Protocol):
    """An engine whose running VMs stop when its epoch goes past their deadline."""

    def increment_epoch(self) -> None: ...


class Guest(Protocol):
    """A loaded guest. Made with the file of its native code and an `OnGuestCall` for the calls of its VMs.

    guarantees: those that hold for it. reserve: bytes of address space its VMs may still map after the first are made.
    `run` gives the answer as JSON text; it raises `Stopped` as the call did, or wasmtime's error for a trap. Every VM
    runs once, after `limit` has set its memory in bytes and an epoch deadline of one tick; then it is closed.
    """

    @property
    def guarantees(self) -> frozenset[str]: ...
    @property
    def reserve(self) -> int: ...
    @property
    def engine(self) -> Ticking: ...
    def fresh(self) -> VM: ...
    def limit(self, vm: VM, memory: int) -> None: ...
    def run(self, vm: VM, job: Mapping[str, Any]) -> str: ...
    def memory(self, vm: VM) -> int | None:
        """Bytes of memory the VM has at its end, None where that is not known."""

    def close(self, vm: VM) -> None: ...
