"""The engine for an operator's own modules and components, and the inspection of what they ask for.

A program may import what is named here and nothing else; whatever else it names is refused in a sentence, when it is
registered and again when it is loaded. Used in worker and compiler processes only, never in the gateway's own.
"""

import hashlib
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from wasmtime import Config, Engine, FuncType, Module, WasmtimeError, component
from wasmtime.component._types import ComponentExtern

from sandboxes.model import MIB
from sandboxes.wasi import FUNCTIONS
from sandboxes.wasm_engine import HOST, MAX_MEMORY, PARKED, WASM_STACK, pooled

WASI: Final = "wasi_snapshot_preview1"
# Calls of tools for a core module: `call(name, length, args, length) -> length of the reply`, `result(where)`.
TOOLGATE: Final = "toolgate"
CALLS: Final[dict[str, str]] = {"call": "iiii", "result": "i"}
SILENT: Final = frozenset({(WASI, "proc_exit"), (TOOLGATE, "result")})

# Of what a program imports and cannot have, a refusal names this many, each cut to so many characters.
SHOWN: Final = 5
SHOWN_CHARS: Final = 100

SLOTS: Final = PARKED + 2
MAX_TABLES: Final = 8
# A component made of Python is 38.
MAX_INSTANCES: Final = 100
TABLE_ELEMENTS: Final = 50_000
POOL: Final[dict[str, int]] = {
    "total_memories": SLOTS,
    "total_tables": SLOTS * MAX_TABLES,
    "total_core_instances": SLOTS * MAX_INSTANCES,
    "total_component_instances": SLOTS,
    "max_memory_size": MAX_MEMORY,
    "table_elements": TABLE_ELEMENTS,
    "max_core_instance_size": 4 * MIB,
    "max_component_instance_size": 4 * MIB,
    "max_core_instances_per_component": MAX_INSTANCES,
    "max_memories_per_module": 1,
    "max_memories_per_component": 1,
    "max_tables_per_module": MAX_TABLES,
    "max_tables_per_component": MAX_TABLES,
    "linear_memory_keep_resident": MIB,
    "table_keep_resident": MIB,
    "max_unused_warm_slots": SLOTS,
}


class Refused(Exception):
    """The program is not one that may run here; the text is a sentence."""


def engine() -> Engine:
    """An engine with interruption by epochs, a pool of slots, and no feature that hides memory or waits.

    What a proposal leaves to the processor is fixed too: the same job gives the same bytes anywhere.
    """
    config = Config()
    config.epoch_interruption = True
    config.wasm_component_model = True
    config.wasm_threads = False
    config.wasm_memory64 = False
    config.gc_support = False
    config.wasm_relaxed_simd_deterministic = True
    config.cranelift_nan_canonicalization = True
    config.max_wasm_stack = WASM_STACK
    return pooled(config, POOL)


def letters(types: Iterable[object]) -> str:
    """Value types of a function as i and I, for integers of 32 and 64 bits, and ? for others."""
    return "".join({"i32": "i", "i64": "I"}.get(str(each), "?") for each in types)


def inspect_module(module: Module) -> list[str]:
    """The imports of a core module as `module.name`. Raises `Refused`, naming what is not offered here."""
    known = {(WASI, name): shape for name, shape in FUNCTIONS.items()}
    known |= {(TOOLGATE, name): shape for name, shape in CALLS.items()}
    # A list: one name may be imported twice, with two types.
    found = [((each.module, each.name or ""), each.type) for each in module.imports]
    _none_unknown(sorted({".".join(each) for each, _ in found if each not in known}))
    for each, shape in found:
        results = "" if each in SILENT else "i"
        fits = isinstance(shape, FuncType) and (letters(shape.params), letters(shape.results)) == (known[each], results)
        if not fits:
            raise Refused(f"it imports {'.'.join(each)} with another type than the one offered here")
    exports = {each.name: each.type for each in module.exports}
    start = exports.get("_start")
    if not isinstance(start, FuncType) or start.params or start.results:
        raise Refused("it exports no function _start without parameters and results")
    return sorted({".".join(each) for each, _ in found})


def inspect_component(program: component.Component, with_engine: Engine) -> list[str]:
    """The imports of a component: none, or `local:runner/host`. Raises `Refused`, naming what is not offered here."""
    own = program.type
    imports = own.imports(with_engine)
    _none_unknown(sorted(map(str, imports.keys() - {HOST})))
    if HOST in imports:
        host = imports[HOST].ty
        if not isinstance(host, component.ComponentInstanceType):
            raise Refused(f"it imports {HOST} as something else than an interface")
        functions = host.exports(with_engine)
        _none_unknown(sorted(f"{HOST}#{name}" for name in functions.keys() - {"call"}))
        if not _of_strings(functions.get("call"), 2):
            raise Refused(f"it imports {HOST}#call with another type than func(string, string) -> string")
    if not _of_strings(own.exports(with_engine).get("run"), 1):
        raise Refused("it exports no run: func(input: string) -> string")
    return sorted(map(str, imports))


def _of_strings(found: ComponentExtern | None, parameters: int) -> bool:
    """Whether it is a function of that many strings that gives a string."""
    try:
        kind = found.ty if found is not None else None
        if not isinstance(kind, component.FuncType):
            return False
        types = [each for _, each in kind.params] + [kind.result]
    except TypeError:  # a type this library does not know
        return False
    return len(types) == parameters + 1 and all(isinstance(each, component.String) for each in types)


def _none_unknown(names: list[str]) -> None:
    if names:
        more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
        shown = ", ".join(name[:SHOWN_CHARS] for name in names[:SHOWN])
        raise Refused(f"it imports {shown}{more}: not offered here")


def compile_program(wasm: Path, cwasm: Path) -> dict[str, object]:
    """Compiles a module or a component to native code. Its kind and its imports; raises `Refused`, `WasmtimeError`."""
    own, content = engine(), wasm.read_bytes()
    if content[4:8] == b"\x01\0\0\0":
        module = Module(own, content)
        kind, imports, native = "module", inspect_module(module), module.serialize()
    else:
        program = component.Component(own, content)
        kind, imports, native = "component", inspect_component(program, own), program.serialize()
    cwasm.write_bytes(native)
    return {"kind": kind, "imports": imports}


def load(cwasm: str) -> bytes:
    """Native code from a file that is named after its digest, read once. Raises `ValueError` if it is not that."""
    path = Path(cwasm)
    content = path.read_bytes()
    if hashlib.sha256(content).hexdigest() != path.stem.rpartition("-")[2]:
        raise ValueError("the compiled module is not the one that was registered")
    return content


def main(wasm: str, cwasm: str) -> int:
    """Says as JSON what was found: `kind` and `imports`, or why it is `refused`."""
    try:
        said = compile_program(Path(wasm), Path(cwasm))
    except Refused as refusal:
        said = {"refused": str(refusal)}
    except WasmtimeError as error:
        said = {"refused": "it is not WebAssembly that can run here: " + " ".join(str(error).split())[:500]}
    sys.stdout.write(json.dumps(said))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
