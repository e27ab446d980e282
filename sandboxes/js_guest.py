"""The JavaScript guest as the worker uses it: one baked QuickJS, and fresh VMs from its snapshot.

Used in worker processes only. Never runs a VM twice, and never outside the limits the worker sets.
"""

import hashlib
import json
import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from wasmtime import Module, Store

from sandboxes.guest import WASM_GUARANTEES, OnGuestCall, Stopped
from sandboxes.js_vm import ASYNC_SCRIPT, Host, OutOfMemory, QuickJS, Thrown, engine
from sandboxes.wasm_engine import MAX_MEMORY

UNLIMITED: Final = 1 << 40
# What a baked module exports beside QuickJS's own: where in its memory the handles of `Roots` stand, and a function
# that runs promise jobs until none is left. It is a loop inside the VM, so the deadline stops it like any other.
ROOTS: Final = "roots"
DRAIN: Final = "drain"
OUT_OF_MEMORY: Final = "InternalError: out of memory"


class Roots(NamedTuple):
    """What a snapshot holds for us: functions of the prelude (run.js), `undefined`, and the name of the snippet."""

    begin: int
    watch: int
    fail: int
    turn: int
    undefined: int
    file: int


class JsGuest:
    """`sandboxes.guest.Guest` for snippets of JavaScript. Its VMs live in slots whose address space the engine has."""

    guarantees: Final = WASM_GUARANTEES
    reserve: Final = 0

    def __init__(self, cwasm: str, on_call: OnGuestCall) -> None:
        self.engine = engine()
        self._host = Host(on_call)
        self._instances = self._host.link(Module.deserialize_file(self.engine, cwasm), self.engine)

    def fresh(self) -> QuickJS:
        """A VM nobody has used."""
        store = Store(self.engine)
        store.set_epoch_deadline(UNLIMITED)
        store.set_limits(memory_size=MAX_MEMORY)
        return QuickJS(store, self._instances.instantiate(store))

    def limit(self, vm: QuickJS, memory: int) -> None:
        vm.store.set_limits(memory_size=memory)
        vm.store.set_epoch_deadline(1)

    def run(self, vm: QuickJS, job: Mapping[str, Any]) -> str:
        self._host.vm = vm
        try:
            return _converse(vm, job)
        except OutOfMemory:
            return _failed("memory", "the memory limit was reached\n")
        except Thrown as thrown:
            if str(thrown) == OUT_OF_MEMORY:
                return _failed("memory", "the memory limit was reached\n")
            return _failed(None, f"{thrown}\n")
        except (ValueError, IndexError, OverflowError) as error:
            # Numbers that no sane VM gives: it broke out of its language, and is still inside its memory.
            raise Stopped("aborted") from error
        finally:
            self._host.vm = None

    def memory(self, vm: QuickJS) -> int | None:
        return vm.size()

    def close(self, vm: QuickJS) -> None:
        # By hand: the traceback of a stopped guest can keep the store alive, and with it the slot.
        vm.store.close()


def _converse(vm: QuickJS, job: Mapping[str, Any]) -> str:
    """One run: begin, the snippet, its promise jobs and timers, the answer."""
    terms = json.loads(job["terms"])
    vm.set(terms["seed"], terms["now"])
    roots = Roots._make(vm.words(vm.value(ROOTS), len(Roots._fields)))
    seed = struct.unpack("<4I", hashlib.sha256(terms["seed"].to_bytes(8, "little")).digest()[:16])
    given = f"[{json.dumps(job['args'])},{job['terms']},{json.dumps(seed)}]"
    vm.call(roots.begin, roots.undefined, vm.string(given.encode()))
    promise = vm.evaluate(job["program"].encode(), roots.file, ASYNC_SCRIPT)
    if vm.threw(promise):
        vm.call(roots.fail, roots.undefined, vm.exception())
    else:
        vm.call(roots.watch, roots.undefined, promise)
    while True:
        _drain(vm, roots)
        answer = vm.text(vm.call(roots.turn, roots.undefined))
        if answer:
            return answer


def _drain(vm: QuickJS, roots: Roots) -> None:
    """Runs promise jobs until none is left."""
    while vm.ask(DRAIN) < 0:
        vm.call(roots.fail, roots.undefined, vm.exception())
    for _promise, reason in vm.rejected.values():
        vm.call(roots.fail, roots.undefined, reason)
    vm.rejected.clear()


def _failed(limit: str | None, stderr: str) -> str:
    """The answer of a run that could not give its own."""
    answer = {"ok": False, "limit": limit, "stdout": "", "stderr": stderr, "truncated": False, "result": None}
    return json.dumps(answer)
