"""The wasmtime engine that compiles and runs guests, and the inspection of what a guest imports.

Used in worker and compiler processes only: the gateway's own process never loads wasmtime.
"""

import json
import sys
from collections.abc import Mapping
from typing import Final

from wasmtime import Config, Engine, component
from wasmtime import _ffi as ffi

from sandboxes.model import MIB

HOST: Final = "local:runner/host"
MAX_MEMORY: Final = 512 * MIB
PARKED: Final = 2
# Room for the parked VMs, the one that runs, and a spent one that waits to be dropped.
SLOTS: Final = 2 * PARKED
# A VM of this guest is 12 core instances that share one memory and two tables.
CORE_INSTANCES: Final = 40
# Deep enough that Python's own recursion checks come first; wasmtime allows at most its 2 MiB async stack.
WASM_STACK: Final = 2 * MIB

POOL: Final[dict[str, int]] = {
    "total_memories": SLOTS,
    "total_tables": SLOTS * 4,
    "total_core_instances": SLOTS * CORE_INSTANCES,
    "total_component_instances": SLOTS,
    "max_memory_size": MAX_MEMORY,
    "table_elements": 50_000,
    "max_core_instance_size": 4 * MIB,
    "max_component_instance_size": 4 * MIB,
    "max_core_instances_per_component": CORE_INSTANCES,
    "max_memories_per_component": 1,
    "max_tables_per_component": 4,
    # A slot is reset by copying the image back over this much, which is cheaper than faulting its pages in again.
    "linear_memory_keep_resident": 19 * MIB,
    "table_keep_resident": MIB,
    "max_unused_warm_slots": SLOTS,
}
# Part of the key of compiled code: whatever is changed above or in `engine` makes another file.
ENGINE_KEY: Final = json.dumps({"pool": POOL, "stack": WASM_STACK, "epochs": True}, sort_keys=True)


def engine() -> Engine:
    """An engine with interruption by epochs and a pool of slots."""
    config = Config()
    config.epoch_interruption = True
    config.wasm_component_model = True
    config.max_wasm_stack = WASM_STACK
    return pooled(config, POOL)


def pooled(config: Config, sizes: Mapping[str, int]) -> Engine:
    """An engine with this configuration and a pool of slots of these sizes, by wasmtime's names for them."""
    pool = ffi.wasmtime_pooling_allocation_config_new()
    for name, value in sizes.items():
        getattr(ffi, f"wasmtime_pooling_allocation_config_{name}_set")(pool, value)
    ffi.wasmtime_pooling_allocation_strategy_set(config.ptr(), pool)
    return Engine(config)


def inspect(guest: component.Component, with_engine: Engine) -> None:
    """Raises `ValueError` unless the guest imports `host` and nothing else."""
    imports = [name if isinstance(name, str) else name[0] for name in guest.type.imports(with_engine)]
    if imports != [HOST]:
        raise ValueError(f"the guest imports {imports}, not {HOST} alone")


def compile_guest(wasm: str, cwasm: str) -> None:
    """Compiles the component in the file `wasm` to native code in the file `cwasm`. Seconds of work."""
    own = engine()
    guest = component.Component.from_file(own, wasm)
    inspect(guest, own)
    with open(cwasm, "wb") as target:
        target.write(guest.serialize())


if __name__ == "__main__":
    compile_guest(*sys.argv[1:])
