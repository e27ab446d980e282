"""One QuickJS in WebAssembly: its engine, its twelve imports, and the few calls of its C interface that we make.

All imports are our own functions: the clock and the random bytes are the job's, what it writes goes nowhere, modules
cannot be loaded. Used in worker and build processes only. Never trusts a number that comes out of a VM.
"""

import random
import struct
from collections.abc import Callable
from ctypes import byref
from typing import Any, Final, cast

from wasmtime import (
    Config,
    Engine,
    Func,
    FuncType,
    Global,
    Instance,
    InstancePre,
    Linker,
    Memory,
    Module,
    Store,
    ValType,
    WasmtimeError,
)
from wasmtime import _ffi as ffi
from wasmtime._func import enter_wasm

from sandboxes.guest import OnGuestCall
from sandboxes.model import MIB
from sandboxes.wasm_engine import MAX_MEMORY, SLOTS, pooled

# Deep enough that QuickJS's own check (`STACK` bytes of its stack in linear memory) comes first, in its parser too.
WASM_STACK: Final = 28 * MIB
ASYNC_STACK: Final = 29 * MIB
STACK: Final = 880 * 1024
POOL: Final[dict[str, int]] = {
    "total_memories": SLOTS,
    "total_tables": SLOTS,
    "total_core_instances": SLOTS,
    "total_stacks": 1,
    "max_memory_size": MAX_MEMORY,
    "table_elements": 10_000,
    "max_core_instance_size": MIB,
    # A slot is reset by copying the image back over this much, which is cheaper than faulting its pages in again.
    "linear_memory_keep_resident": 2 * MIB,
    "table_keep_resident": MIB,
    "max_unused_warm_slots": SLOTS,
}
# What a baked VM exports: of its functions those that are called below.
EXPORTS: Final = (
    *("memory", "wasm_malloc", "wasm_free", "qjs_eval", "qjs_call", "qjs_new_string"),
    *("qjs_get_string_len", "qjs_free_cstring", "qjs_is_exception", "qjs_get_exception", "qjs_get_value_ptr"),
    "qjs_free_value",
)
# `qjs_eval`: a script whose top level may await; its value is a promise of {value}, that of the last expression.
ASYNC_SCRIPT: Final = 128
# An unhandled rejection ends the run; more of them at once than this are not told apart.
REJECTIONS: Final = 100
SLEEP: Final = ".sleep"
NOT_SUPPORTED: Final = 52
INT, LONG = ValType.i32(), ValType.i64()


class OutOfMemory(Exception):
    """A VM has no memory left for what we want to give it or ask of it."""


class Thrown(Exception):
    """One of our own functions inside threw; the text is what it threw."""


def engine() -> Engine:
    """An engine with interruption by epochs and a pool of slots."""
    config = Config()
    config.epoch_interruption = True
    ffi.wasmtime_config_async_stack_size_set(config.ptr(), ASYNC_STACK)
    config.max_wasm_stack = WASM_STACK
    return pooled(config, POOL)


class QuickJS:
    """One VM. Values inside are known here by handles: addresses of boxes in its memory.

    rejected: promises that were rejected and that nobody waits for, with the reason, by the promise's identity.
    """

    def __init__(self, store: Store, instance: Instance) -> None:
        self.store = store
        self.rejected: dict[int, tuple[int, int]] = {}
        self._exports: dict[str, Any] = dict(instance.exports(store).items())
        self._memory = cast(Memory, self._exports["memory"])
        self._now_ns = 0
        self._reads = 0
        self._random = random.Random(0)

    def set(self, seed: int, now: float) -> None:
        """The clock (Unix seconds) and the random stream from here on. Each reading of the clock moves it by 1 µs."""
        self._now_ns = round(now * 1_000_000) * 1000
        self._reads = 0
        self._random.seed(seed)

    def ask(self, name: str, *numbers: int) -> int:
        """Calls an exported function that takes and gives i32 only; what it returns, if anything."""
        # Not by calling the Func: that asks for its type and converts by it each time, four times as slow. The types of
        # what we call are known, and `js_build` has tried each of them.
        values = (ffi.wasmtime_val_raw_t * (len(numbers) + 1))()
        for value, number in zip(values, numbers, strict=False):
            value.i32 = number
        function = byref(cast(Func, self._exports[name])._func)
        with enter_wasm(self.store) as trap:
            error = ffi.wasmtime_func_call_unchecked(self.store._context(), function, values, len(values), trap)
            if error:
                raise WasmtimeError._from_ptr(error)
        return int(values[0].i32)

    def value(self, name: str) -> int:
        """The value of an exported global."""
        return int(cast(Global, self._exports[name]).value(self.store))

    def read(self, at: int, size: int) -> bytes:
        return bytes(self._memory.read(self.store, at, at + size))

    def write(self, content: bytes, at: int) -> None:
        self._memory.write(self.store, content, at)

    def size(self) -> int:
        """Bytes of memory it has."""
        return self._memory.data_len(self.store)

    def words(self, at: int, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}I", self.read(at, 4 * count))

    def place(self, content: bytes) -> int:
        """Copies bytes in, a zero behind them; where they are now. Raises `OutOfMemory`."""
        at = self.ask("wasm_malloc", len(content) + 1)
        if at == 0:
            raise OutOfMemory
        self.write(content + b"\0", at)
        return at

    def string(self, content: bytes) -> int:
        """A string, given as UTF-8."""
        at = self.place(content)
        made = self.ask("qjs_new_string", at, len(content))
        self.ask("wasm_free", at)
        if made == 0:
            raise OutOfMemory
        return made

    def text(self, value: int) -> str:
        """A value as a string; what is no UTF-8 in it is replaced."""
        size_at = self.place(bytes(4))
        at = self.ask("qjs_get_string_len", value, size_at)
        if at == 0:
            raise OutOfMemory
        (size,) = self.words(size_at, 1)
        found = self.read(at, size).decode(errors="replace")
        self.ask("qjs_free_cstring", at)
        self.ask("wasm_free", size_at)
        return found

    def evaluate(self, source: bytes, name: int, flags: int = 0) -> int:
        """Runs a script whose file name stands at the address `name`; its value, which may be an exception."""
        return self.ask("qjs_eval", self.place(source), len(source), name, flags)

    def call(self, function: int, this: int, *arguments: int) -> int:
        """Calls a function of our own inside. Raises `Thrown` and `OutOfMemory`."""
        at = self.place(struct.pack(f"<{len(arguments)}I", *arguments))
        value = self.ask("qjs_call", function, this, len(arguments), at)
        self.ask("wasm_free", at)
        if self.threw(value):
            raise Thrown(self.text(self.exception()))
        return value

    def threw(self, value: int) -> bool:
        if value == 0:
            raise OutOfMemory
        return self.ask("qjs_is_exception", value) != 0

    def exception(self) -> int:
        """What was thrown last."""
        return self.ask("qjs_get_exception")

    def sleep(self, milliseconds: float) -> None:
        """Moves the clock."""
        self._now_ns += round(milliseconds * 1_000_000)

    def time_ns(self) -> int:
        self._reads += 1
        return (self._now_ns + (self._reads - 1) * 1000) % 2**64

    def random_bytes(self, size: int) -> bytes:
        return self._random.randbytes(size)


class Host:
    """The other side of a VM's imports, for all VMs of one engine, of which one runs at a time: `vm`."""

    def __init__(self, on_call: OnGuestCall) -> None:
        self.vm: QuickJS | None = None
        self._on_call = on_call

    def link(self, module: Module, with_engine: Engine) -> InstancePre:
        """Raises wasmtime's error for a module that imports anything else than these twelve."""
        linker = Linker(with_engine)
        wasi = "wasi_snapshot_preview1"
        imports: tuple[tuple[str, str, list[ValType], list[ValType], Callable[..., int | None]], ...] = (
            ("env", "host_call", [INT] * 5, [INT], self._call),
            ("env", "host_promise_rejection", [INT] * 3, [], self._rejection),
            ("env", "host_get_timezone_offset", [INT] * 2, [INT], lambda _high, _low: 0),
            ("env", "host_interrupt", [], [INT], lambda: 0),
            ("env", "host_module_normalize", [INT] * 2, [INT], lambda _base, _name: 0),
            ("env", "host_module_load", [INT] * 2, [INT], lambda _name, _size: 0),
            (wasi, "clock_time_get", [INT, LONG, INT], [INT], self._clock),
            (wasi, "random_get", [INT] * 2, [INT], self._random),
            (wasi, "fd_write", [INT] * 4, [INT], lambda *_: NOT_SUPPORTED),
            (wasi, "fd_close", [INT], [INT], lambda _fd: NOT_SUPPORTED),
            (wasi, "fd_fdstat_get", [INT] * 2, [INT], lambda _fd, _at: NOT_SUPPORTED),
            (wasi, "fd_seek", [INT, LONG, INT, INT], [INT], lambda *_: NOT_SUPPORTED),
        )
        for place, name, takes, gives, function in imports:
            linker.define_func(place, name, FuncType(takes, gives), function)
        return linker.instantiate_pre(module)

    def _running(self) -> QuickJS:
        if self.vm is None:
            raise RuntimeError("a VM asks while none runs")
        return self.vm

    def _call(self, _name: int, _size: int, _this: int, count: int, arguments: int) -> int:
        """The prelude's `host(name, text)`: a tool by its name, or something of ours that begins with a dot."""
        vm = self._running()
        name, text = (vm.text(value) for value in vm.words(arguments, min(count, 2)))
        if name == SLEEP:
            vm.sleep(float(text))
            return vm.string(b"")
        return vm.string(self._on_call(name, text).encode())

    def _rejection(self, promise: int, reason: int, handled: int) -> None:
        vm = self._running()
        identity = vm.ask("qjs_get_value_ptr", promise)
        spent = [promise, reason]
        if handled:
            spent += vm.rejected.pop(identity, ())
        elif len(vm.rejected) < REJECTIONS:
            vm.rejected[identity] = (promise, reason)
            spent = []
        for value in spent:
            vm.ask("qjs_free_value", value)

    def _clock(self, _clock: int, _precision: int, at: int) -> int:
        vm = self._running()
        vm.write(vm.time_ns().to_bytes(8, "little"), at)
        return 0

    def _random(self, at: int, size: int) -> int:
        vm = self._running()
        vm.write(vm.random_bytes(size), at)
        return 0
