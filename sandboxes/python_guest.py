"""The Python guest as the worker uses it: one component, and fresh VMs from its snapshot.

Used in worker processes only. Never runs a VM twice, and never outside the limits the worker sets.
"""

from collections.abc import Mapping
from typing import Any, Final

from wasmtime import Store, component

from sandboxes.guest import WASM_GUARANTEES, OnGuestCall
from sandboxes.wasm_engine import HOST, MAX_MEMORY, engine, inspect

UNLIMITED: Final = 1 << 40


class PythonGuest:
    """`sandboxes.guest.Guest` for snippets of Python. Its VMs live in slots whose address space the engine has."""

    guarantees: Final = WASM_GUARANTEES
    reserve: Final = 0

    def __init__(self, cwasm: str, on_call: OnGuestCall) -> None:
        self.engine = engine()
        self._component = component.Component.deserialize_file(self.engine, cwasm)
        inspect(self._component, self.engine)
        self._linker = component.Linker(self.engine)
        with self._linker.root() as root, root.add_instance(HOST) as host:
            host.add_func("call", lambda _store, name, args: on_call(name, args))

    def fresh(self) -> tuple[Store, component.Func]:
        """A VM nobody has used and its `run`."""
        store = Store(self.engine)
        store.set_epoch_deadline(UNLIMITED)
        store.set_limits(memory_size=MAX_MEMORY)
        run = self._linker.instantiate(store, self._component).get_func(store, "run")
        if run is None:
            raise ValueError("the guest exports no run")
        return store, run

    def limit(self, vm: tuple[Store, component.Func], memory: int) -> None:
        store, _ = vm
        store.set_limits(memory_size=memory)
        store.set_epoch_deadline(1)

    def run(self, vm: tuple[Store, component.Func], job: Mapping[str, Any]) -> str:
        store, run = vm
        return str(run(store, job["program"], job["args"], job["terms"]))

    def memory(self, _vm: tuple[Store, component.Func]) -> int | None:
        return None  # a component keeps its memory to itself

    def close(self, vm: tuple[Store, component.Func]) -> None:
        # By hand: the traceback of a stopped guest can keep the store alive, and with it the slot.
        vm[0].close()
