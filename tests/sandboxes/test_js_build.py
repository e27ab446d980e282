"""Building the JavaScript guest: a snapshot baked by ourselves, checked before each use, importing what we define."""

import os
import shutil
from pathlib import Path

import pytest
import wasmtime

from sandboxes.guests.build import DEFAULT_FOLDER, QUICKJS, ensure_js
from sandboxes.guests.snapshot import Additions, State, bake
from sandboxes.js_build import check, snapshot
from sandboxes.js_vm import Host

# Counts, writes down what it counts, and moves its stack pointer; `start` has run once when it is baked.
COUNTER = """(module
  (import "env" "note" (func $note (param i32)))
  (memory (export "memory") 1)
  (global $sp (export "sp") (mut i32) (i32.const 1024))
  (global $fixed i32 (i32.const -5))
  (data (i32.const 65528) "begin")
  (func $start (i32.store (i32.const 0) (i32.const 7)) (drop (memory.grow (i32.const 2))))
  (start $start)
  (func (export "step") (result i32)
    (i32.store (i32.const 0) (i32.sub (i32.load (i32.const 0)) (i32.const 1)))
    (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
    (call $note (i32.load (i32.const 0)))
    (i32.load (i32.const 0)))
  (func (export "fixed") (result i32) (global.get $fixed))
  (func (export "unused"))
)"""
NEW = Additions("roots", 66, "drain", "step")


class Counter:
    """The module above, running."""

    def __init__(self, code: bytes) -> None:
        engine = wasmtime.Engine()
        self.noted: list[int] = []
        self.store = wasmtime.Store(engine)
        linker = wasmtime.Linker(engine)
        linker.define_func("env", "note", wasmtime.FuncType([wasmtime.ValType.i32()], []), self.noted.append)
        self.exports = linker.instantiate(self.store, wasmtime.Module(engine, code)).exports(self.store)

    def call(self, name: str) -> object:
        return self.exports[name](self.store)

    def state(self) -> State:
        memory = self.exports["memory"]
        return State(
            bytes(memory.read(self.store, 0, memory.data_len(self.store))), self.exports["sp"].value(self.store)
        )


def test_a_baked_module_goes_on_where_it_was():
    """Memory, its size and the stack pointer are as they were; `start` does not run again; what is not kept is gone."""
    code = bytes(wasmtime.wat2wasm(COUNTER))
    first = Counter(code)
    assert [first.call("step"), first.call("step")] == [6, 5]
    baked = Counter(bake(code, first.state(), ["memory", "sp", "step", "fixed"], NEW))
    assert sorted(baked.exports) == ["drain", "fixed", "memory", "roots", "sp", "step"]
    assert baked.state() == first.state()
    assert len(baked.state().memory) == 3 * 65536
    assert baked.state().mutable == 1024 - 2 * 16
    assert [baked.call("step"), baked.call("fixed"), baked.exports["roots"].value(baked.store)] == [4, -5, 66]


def test_the_added_function_repeats_another():
    """`drain` calls `step` until it gives 0, and gives that; once more it gives what is below 0 at once."""
    code = bytes(wasmtime.wat2wasm(COUNTER))
    baked = Counter(bake(code, Counter(code).state(), ["memory", "sp"], NEW))
    assert baked.call("drain") == 0
    assert baked.noted == [6, 5, 4, 3, 2, 1, 0]
    assert baked.call("drain") == -1


STRANGE = {
    "another mutable global": COUNTER.replace("$fixed i32", "$fixed (mut i32)"),
    "a global of another type": COUNTER.replace("$fixed i32 (i32.const", "$fixed i64 (i64.const").replace(
        "(result i32) (global.get $fixed)", "(result i64) (global.get $fixed)"
    ),
    "an imported global": COUNTER.replace("(memory", '(import "env" "g" (global i32)) (memory', 1),
    "no such export": COUNTER.replace('"step"', '"stop"'),
}


@pytest.mark.parametrize("name", STRANGE)
def test_a_module_of_another_kind_is_refused(name):
    """A module whose state is more than its memory and one global cannot be baked without losing something."""
    code = bytes(wasmtime.wat2wasm(STRANGE[name]))
    with pytest.raises(ValueError, match=r"global|import|export"):
        bake(code, State(bytes(65536), 0), ["memory"], NEW)


def test_what_is_no_module_is_refused():
    """Bytes that do not begin like a WebAssembly module are refused by name."""
    with pytest.raises(ValueError, match="not a WebAssembly module"):
        bake(b"\0asm\2\0\0\0", State(b"", 0), [], NEW)


def test_a_prelude_that_fails_is_no_guest():
    """An error in our own prelude ends the build with its text, and so does a call from it."""
    quickjs = QUICKJS.read_bytes()
    with pytest.raises(ValueError, match="SyntaxError"):
        snapshot(quickjs, ["(inner) => {"])
    with pytest.raises(ValueError, match="calls x while it is built"):
        snapshot(quickjs, ["(inner) => { inner.host('x', '') }"])


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A folder with its own copy of the built guest."""
    folder = tmp_path / "guests"
    folder.mkdir(mode=0o700)
    built = ensure_js(Path(os.environ.get("TOOLGATE_GUESTS", DEFAULT_FOLDER)))
    for file in (built.wasm, built.cwasm):
        for name in (file.name, file.name + ".sha256"):
            shutil.copy(file.with_name(name), folder / name)
    return folder


def no_build(line: str) -> None:
    raise AssertionError(f"built again: {line}")


def test_a_built_guest_is_used_again_and_an_altered_one_is_not(copy):
    """With everything in place nothing is built; a module that was altered is baked anew, to the same bytes."""
    first = ensure_js(copy, no_build)
    code = first.wasm.read_bytes()
    first.wasm.write_bytes(code[:-1])
    lines: list[str] = []
    assert ensure_js(copy, lines.append) == first
    assert [line.split()[0] for line in lines] == ["building", "built"]
    assert first.wasm.read_bytes() == code


def test_the_guest_imports_twelve_functions_and_no_more(copy):
    """A module that wants a thirteenth cannot be linked: whatever the guest reaches, we have written."""
    engine = wasmtime.Engine()
    guest = wasmtime.Module.from_file(engine, str(ensure_js(copy, no_build).wasm))
    assert len(guest.imports) == 12
    other = wasmtime.Module(engine, '(module (import "wasi_snapshot_preview1" "path_open" (func)))')
    with pytest.raises(wasmtime.WasmtimeError, match="path_open"):
        Host(lambda _name, _args: "").link(other, engine)


def test_a_guest_is_tried_before_it_is_used(copy):
    """The compiled guest answers its table of programs; a file that is no guest does not load."""
    built = ensure_js(copy, no_build)
    check(str(built.cwasm))
    with pytest.raises(wasmtime.WasmtimeError):
        check(str(built.wasm))
