"""An operator's own programs as the worker uses them: core modules with `_start`, components with `run`.

A program gets the job's input and gives one text; a text that is one JSON value is its value. Used in worker processes
only. Nothing of a program runs before its job does, not even a start section, so all of it is under the job's limits.
"""

import base64
import contextlib
import ctypes
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from wasmtime import Caller, FuncType, Linker, Module, Store, Trap, TrapCode, ValType, WasmtimeError, component
from wasmtime import Memory as LinearMemory
from wasmtime.component._enter import maybe_raise_last_exn

from sandboxes.frames import FrameError, unpack_object
from sandboxes.guest import WASM_GUARANTEES, OnGuestCall
from sandboxes.model import ARGS_CAP
from sandboxes.module_engine import (
    CALLS,
    MAX_INSTANCES,
    MAX_TABLES,
    SILENT,
    TABLE_ELEMENTS,
    WASI,
    engine,
    inspect_component,
    inspect_module,
    load,
)
from sandboxes.offers import MODULE_DISK
from sandboxes.wasi import FAULT, FUNCTIONS, Ended, Fault, Output, Wasi
from sandboxes.wasi_files import Folder
from sandboxes.wasm_engine import HOST

TYPES: Final = {"i": ValType.i32(), "I": ValType.i64()}
MASKS: Final = {"i": (1 << 32) - 1, "I": (1 << 64) - 1}
# These end a job in a way that the worker tells the parent itself.
FOR_THE_WORKER: Final = frozenset({TrapCode.INTERRUPT, TrapCode.STACK_OVERFLOW})


@dataclass
class VM:
    """A store, and once its program runs, what that program has."""

    store: Store
    memory: LinearMemory | None = None


class Window:
    """The memory a running module exports as `memory`: every access is checked against its size of the moment."""

    def __init__(self, caller: Caller) -> None:
        memory = caller.get("memory")
        if not isinstance(memory, LinearMemory):
            raise Fault
        self._size = memory.data_len(caller)
        self._base = ctypes.cast(memory.data_ptr(caller), ctypes.c_void_p).value or 0

    def check(self, start: int, size: int) -> None:
        if start < 0 or size < 0 or start + size > self._size:
            raise Fault

    def read(self, start: int, size: int) -> bytes:
        self.check(start, size)
        return ctypes.string_at(self._base + start, size)

    def write(self, start: int, content: bytes) -> None:
        self.check(start, len(content))
        ctypes.memmove(self._base + start, content, len(content))


class Programs:
    """What both kinds have in common: stores with limits, one per job."""

    guarantees: Final = WASM_GUARANTEES
    reserve: Final = 0

    def __init__(self, on_call: OnGuestCall) -> None:
        self.engine = engine()
        self._on_call = on_call

    def fresh(self) -> VM:
        return VM(Store(self.engine))

    def limit(self, vm: VM, memory: int) -> None:
        # One memory, for the limit is of each memory and not of all.
        vm.store.set_limits(memory, TABLE_ELEMENTS, MAX_INSTANCES, MAX_TABLES, 1)
        vm.store.set_epoch_deadline(1)

    def close(self, vm: VM) -> None:
        vm.store.close()

    def _call(self, name: str, args: str) -> str:
        """A call of a tool; a name that begins with a dot is none, though the worker may know one."""
        if name.startswith("."):
            return '{"error":"this tool may not be called from here"}'
        return self._on_call(name, args)


class ModuleGuest(Programs):
    """`sandboxes.guest.Guest` for a core module: stdin is the job's input, stdout the output."""

    def __init__(self, cwasm: str, on_call: OnGuestCall) -> None:
        super().__init__(on_call)
        module = Module.deserialize(self.engine, load(cwasm))
        inspect_module(module)
        self._wasi = _wasi("", {"seed": 0, "now": 0, "output": 0, "disk": 0, "files": {}})
        self._reply = b""
        linker = Linker(self.engine)
        for name in {(each.module, str(each.name)) for each in module.imports}:
            self._offer(linker, *name)
        self._program = linker.instantiate_pre(module)

    def run(self, vm: VM, job: Mapping[str, Any]) -> str:
        terms = json.loads(job["terms"])
        self._wasi, self._reply = _wasi(job["args"], terms), b""
        said, limit = "", None
        try:
            exports = self._program.instantiate(vm.store).exports(vm.store)
            memory = exports.get("memory")
            vm.memory = memory if isinstance(memory, LinearMemory) else None
            exports["_start"](vm.store)  # type: ignore[operator]  # inspected: a function
        except Ended as ended:
            limit = ended.limit
            said = f"the program ended with exit code {ended.code}\n" if ended.code else ""
        except Fault:
            said = "the program was stopped: it gave toolgate a pointer outside its memory\n"
        except Trap as trap:
            if trap.trap_code in FOR_THE_WORKER:
                raise
            said = f"the program was stopped: {_cause(trap)}\n"
        except WasmtimeError as error:
            limit, said = _no_room(error)
        output = self._wasi.output
        return answer(bytes(output.stdout), bytes(output.stderr), said, limit, _files(self._wasi, terms))

    def memory(self, vm: VM) -> int | None:
        return None if vm.memory is None else vm.memory.data_len(vm.store)

    def _offer(self, linker: Linker, module: str, name: str) -> None:
        shape = FUNCTIONS[name] if module == WASI else CALLS[name]
        results = [] if (module, name) in SILENT else [ValType.i32()]
        masks = [MASKS[letter] for letter in shape]
        inner = self._wasi_function(name) if module == WASI else {"call": self._tool, "result": self._result}[name]

        def function(caller: Caller, *given: int) -> int | None:
            return inner(caller, [value & mask for value, mask in zip(given, masks, strict=True)])

        kind = FuncType([TYPES[letter] for letter in shape], results)
        linker.define_func(module, name, kind, function, access_caller=True)

    def _wasi_function(self, name: str) -> Callable[[Caller, list[int]], int | None]:
        function = getattr(Wasi, name)

        def run(caller: Caller, given: list[int]) -> int:
            try:
                return int(function(self._wasi, Window(caller), *given))
            except Fault:
                return FAULT

        return run

    def _tool(self, caller: Caller, given: list[int]) -> int:
        """`toolgate.call`: the length of the reply, a JSON text that `toolgate.result` copies out."""
        window, (name, name_size, args, args_size) = Window(caller), given
        window.check(name, name_size)
        window.check(args, args_size)
        if name_size + args_size > ARGS_CAP:
            reply = json.dumps({"error": f"the name and the arguments are over {ARGS_CAP} bytes"})
        else:
            texts = window.read(name, name_size), window.read(args, args_size)
            reply = self._call(*(text.decode(errors="replace") for text in texts))
        self._reply = reply.encode()
        return len(self._reply)

    def _result(self, caller: Caller, given: list[int]) -> None:
        Window(caller).write(given[0], self._reply)


class ComponentGuest(Programs):
    """`sandboxes.guest.Guest` for a component: `run` gets the job's input and gives the output."""

    def __init__(self, cwasm: str, on_call: OnGuestCall) -> None:
        super().__init__(on_call)
        self._component = component.Component.deserialize(self.engine, load(cwasm))
        imports = inspect_component(self._component, self.engine)
        self._linker = component.Linker(self.engine)
        if imports:
            with self._linker.root() as root, root.add_instance(HOST) as host:
                host.add_func("call", lambda _store, name, args: self._call(name, args))

    def run(self, vm: VM, job: Mapping[str, Any]) -> str:
        output = Output(json.loads(job["terms"])["output"])
        said, limit = "", None
        try:
            output.write(1, str(self._function(vm.store)(vm.store, job["args"])).encode())
        except Ended as ended:
            limit = ended.limit
        except WasmtimeError as error:
            cause = _cause(error)
            if "interrupt" in cause or "stack exhausted" in cause:
                raise
            limit, said = _no_room(error)
        return answer(bytes(output.stdout), b"", said, limit, {})

    def memory(self, _vm: VM) -> int | None:
        return None  # a component keeps its memory to itself

    def _function(self, store: Store) -> component.Func:
        try:
            run = self._linker.instantiate(store, self._component).get_func(store, "run")
        except WasmtimeError:
            maybe_raise_last_exn()  # what ended a call made while starting; else the next job would get it
            raise
        if run is None:
            raise ValueError("the component exports no run")
        return run


def answer(stdout: bytes, stderr: bytes, said: str, limit: str | None, files: dict[str, str] | None) -> str:
    """The guest's answer. `said`: why the program failed, "" if it did not. files: base64, None for too many bytes."""
    if files is None:
        limit, files = limit or "files_out", {}
    ok = not said and limit is None
    is_value = ok and _is_json(stdout)
    head = {
        "ok": ok,
        "limit": limit,
        "stdout": "" if is_value else _text(stdout),
        "stderr": _text(stderr) + said,
        "truncated": limit == "output",
        "files": files,
    }
    return f'{json.dumps(head)[:-1]},"result":{stdout.decode() if is_value else "null"}}}'


def _wasi(given: str, terms: Mapping[str, Any]) -> Wasi:
    files = {name: base64.b64decode(content) for name, content in terms["files"].items()}
    folder = Folder(files, min(terms["disk"], MODULE_DISK))
    return Wasi(given.encode(), folder, Output(terms["output"]), terms["seed"], terms["now"])


def _files(wasi: Wasi, terms: Mapping[str, Any]) -> dict[str, str] | None:
    limit = terms["files_out"]
    changed = wasi.folder.changed() if limit else {}
    if sum(map(len, changed.values())) > limit:
        return None
    return {name: base64.b64encode(content).decode() for name, content in changed.items()}


def _is_json(text: bytes) -> bool:
    with contextlib.suppress(FrameError, ValueError, RecursionError):
        json.loads(text)
        unpack_object(b'{"value":' + text + b"}")
        return True
    return False


def _text(raw: bytes) -> str:
    """UTF-8 as text, each byte that is none as one "?": it never gets longer."""
    return raw.decode(errors="surrogateescape").encode(errors="replace").decode()


def _cause(error: Exception) -> str:
    return str(error).rstrip().rsplit("\n", 1)[-1].strip()


def _no_room(error: WasmtimeError) -> tuple[str | None, str]:
    """Which limit an error of wasmtime's names, if any, and what to say."""
    cause = _cause(error)
    limit = "memory" if "exceeds memory limits" in cause else None
    return limit, f"the program was stopped: {cause}\n"
