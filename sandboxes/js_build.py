"""Makes the JavaScript guest: starts QuickJS, runs our prelude in it, bakes that into a module, compiles and tries it.

`python -m sandboxes.js_build bake TARGET QUICKJS PRELUDE…` and `… compile WASM TARGET`, in processes of their own.
Never runs anybody's code but ours.
"""

import json
import struct
import sys
from pathlib import Path
from typing import Final

from wasmtime import Module, Store

from sandboxes.guests.snapshot import Additions, State, bake
from sandboxes.js_guest import DRAIN, ROOTS, UNLIMITED, JsGuest, Roots
from sandboxes.js_vm import EXPORTS, STACK, Host, QuickJS, engine
from sandboxes.model import MIB
from sandboxes.wasm_engine import MAX_MEMORY

# The function of QuickJS that runs one promise job: 1, 0 when there was none, less when it threw.
STEP: Final = "qjs_execute_pending_job"
# What a baked VM must answer before it is used.
TABLE: Final = (
    ("1 + 1", 2),
    ("result = args.a.map(v => v * v)", [1, 4, 9]),
    ("const result = await Promise.resolve('é'.padStart(3, '-'))", "--é"),
    ("/(\\d+)-(\\d+)/.exec('12-34').slice(1)", ["12", "34"]),
    ("[new Date().toISOString(), typeof host]", ["2023-11-14T22:13:20.000Z", "undefined"]),
    ("try { (function f() { f(); })() } catch (error) { result = error.name }", "RangeError"),
)


def snapshot(quickjs: bytes, prelude: list[str]) -> bytes:
    """The module `quickjs` as it is once each file of the prelude has run in it."""
    own = engine()
    host = Host(_nobody)
    store = Store(own)
    store.set_epoch_deadline(UNLIMITED)
    store.set_limits(memory_size=MAX_MEMORY)
    vm = QuickJS(store, host.link(Module(own, quickjs), own).instantiate(store))
    host.vm = vm
    vm.ask("_initialize")
    if vm.ask("qjs_init") != 0:
        raise ValueError("QuickJS did not start")
    vm.ask("qjs_set_max_stack_size", STACK)
    vm.ask("qjs_set_promise_rejection_handler", 1)
    roots = _prepare(vm, prelude)
    address = vm.place(struct.pack(f"<{len(roots)}I", *roots))
    vm.ask("qjs_run_gc")
    state = State(vm.read(0, vm.size()), vm.value("__stack_pointer"))
    return bake(quickjs, state, EXPORTS, Additions(ROOTS, address, DRAIN, STEP))


def _prepare(vm: QuickJS, prelude: list[str]) -> Roots:
    inner = vm.ask("qjs_new_object")
    undefined = vm.ask("qjs_get_undefined")
    function = vm.ask("qjs_new_host_function", vm.place(b"host"), len(b"host"), 2)
    vm.ask("qjs_set_prop_string", inner, vm.place(b"host"), function)
    ours = vm.place(b"<sandbox>")
    for source in prelude:
        made = vm.evaluate(source.encode(), ours)
        if vm.threw(made):
            raise ValueError(vm.text(vm.exception()))
        vm.call(made, undefined, inner)
    functions = [vm.ask("qjs_get_prop_string", inner, vm.place(name.encode())) for name in Roots._fields[:4]]
    return Roots._make([*functions, undefined, vm.place(b"<tool>")])


def _nobody(name: str, _args: str) -> str:
    raise ValueError(f"the prelude calls {name} while it is built")


def check(cwasm: str) -> None:
    """Raises `ValueError` unless fresh VMs of the compiled guest answer as the table says."""
    guest = JsGuest(cwasm, _nobody)
    terms = {"seed": 1, "now": 1_700_000_000, "output": 1000, "files_out": 0, "tools": [], "files": {}}
    for program, expected in TABLE:
        vm = guest.fresh()
        guest.limit(vm, 32 * MIB)
        answer = json.loads(guest.run(vm, {"program": program, "args": '{"a":[1,2,3]}', "terms": json.dumps(terms)}))
        guest.close(vm)
        if answer["result"] != expected:
            raise ValueError(f"the baked guest answers {answer} for {program!r}")


def main(what: str, *paths: str) -> None:
    if what == "bake":
        target, quickjs, *prelude = map(Path, paths)
        target.write_bytes(snapshot(quickjs.read_bytes(), [file.read_text() for file in prelude]))
    else:
        wasm, cwasm = paths
        Path(cwasm).write_bytes(Module.from_file(engine(), wasm).serialize())
        check(cwasm)


if __name__ == "__main__":
    main(*sys.argv[1:])
