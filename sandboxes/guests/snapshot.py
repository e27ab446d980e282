"""Bakes a started WebAssembly program into its own module: a new instance begins where the old one stood.

Pure: bytes in, bytes out, by the binary format of the WebAssembly core specification. Knows modules with one memory of
32 bits and globals of type i32 only, and raises `ValueError` for any other. Never runs anything.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

HEADER: Final = b"\0asm\x01\0\0\0"
CUSTOM, IMPORT, FUNCTION, MEMORY, GLOBAL, EXPORT, START, CODE, DATA, DATA_COUNT = 0, 2, 3, 5, 6, 7, 8, 10, 11, 12
I32, I32_CONST, CALL, END = 0x7F, 0x41, 0x10, 0x0B
FUNCTION_EXPORT, GLOBAL_EXPORT = b"\0", b"\3"
# loop; (the call); local.tee 0; i32.const 0; i32.gt_s; br_if 0; end; local.get 0; end
LOOP: Final = (b"\x01\x01\x7f\x03\x40", b"\x22\x00\x41\x00\x4a\x0d\x00\x0b\x20\x00\x0b")
WASM_PAGE: Final = 65536
# Memory is kept in runs of pages of this size that are not all zero.
PAGE: Final = 4096


@dataclass(frozen=True, slots=True)
class State:
    """What an instance is at a moment: its memory, whole, and the value of its one mutable global."""

    memory: bytes
    mutable: int


@dataclass(frozen=True, slots=True)
class Additions:
    """What is new in the baked module. roots: a global's name, with `address` as its value.

    drain: a function's name; it calls the exported function `step`, of type () → i32, until that gives 0 or less, and
    gives that.
    """

    roots: str
    address: int
    drain: str
    step: str


def bake(module: bytes, state: State, keep: Iterable[str], new: Additions) -> bytes:
    """`module` as it is in `state`, with only the exports in `keep` and the new ones.

    What ran before does not run again: there is no start function. Raises `ValueError` for a module of another kind.
    """
    if len(state.memory) % WASM_PAGE:
        raise ValueError("the memory is not whole pages")
    sections = [(kind, payload) for kind, payload in _sections(module) if kind not in (CUSTOM, START)]
    old = dict(sections)
    exported = _exported(old[EXPORT])
    step, imported = _index(exported, new.step), _imported(old[IMPORT])
    functions, globals_ = _read(old[FUNCTION], 0)[0], _read(old[GLOBAL], 0)[0]
    runs = list(_runs(state.memory))
    changed = {
        FUNCTION: _longer(old[FUNCTION], _unsigned(_type(old[FUNCTION], step - imported))),
        MEMORY: _memory(old[MEMORY], len(state.memory) // WASM_PAGE),
        GLOBAL: _globals(old[GLOBAL], state.mutable, new.address),
        EXPORT: _vector(
            [
                *(exported[name] for name in keep if _index(exported, name) >= 0),
                _export(new.drain, FUNCTION_EXPORT, imported + functions),
                _export(new.roots, GLOBAL_EXPORT, globals_),
            ]
        ),
        DATA_COUNT: _unsigned(len(runs)),
        CODE: _longer(old[CODE], _loop(step)),
        DATA: _vector([b"\0" + _i32_const(at) + _sized(part) for at, part in runs]),
    }
    return HEADER + b"".join(bytes([kind]) + _sized(changed.get(kind, payload)) for kind, payload in sections)


def _sections(module: bytes) -> Iterator[tuple[int, bytes]]:
    if module[: len(HEADER)] != HEADER:
        raise ValueError("not a WebAssembly module")
    at = len(HEADER)
    while at < len(module):
        size, begin = _read(module, at + 1)
        yield module[at], module[begin : begin + size]
        at = begin + size


def _runs(memory: bytes) -> Iterator[tuple[int, bytes]]:
    """The parts of `memory` that hold anything, as address and bytes."""
    zeros = bytes(PAGE)
    begin = None
    for at in range(0, len(memory) + PAGE, PAGE):
        empty = at >= len(memory) or memory[at : at + PAGE] == zeros
        if begin is None and not empty:
            begin = at
        elif begin is not None and empty:
            yield begin, memory[begin:at]
            begin = None


def _memory(payload: bytes, pages: int) -> bytes:
    count, at = _read(payload, 0)
    flags = payload[at]
    if count != 1 or flags > 1:
        raise ValueError("not one memory of 32 bits that is nobody else's")
    _least, most = _read(payload, at + 1)
    return _unsigned(1) + bytes([flags]) + _unsigned(pages) + payload[most:]


def _globals(payload: bytes, mutable: int, address: int) -> bytes:
    """The globals, the mutable one with its present value, and one more with `address`."""
    count, at = _read(payload, 0)
    entries = []
    changing = 0
    for _ in range(count):
        kind, may_change, first = payload[at : at + 3]
        if kind != I32 or first != I32_CONST:
            raise ValueError("a global that is not a constant i32")
        _value, end = _read(payload, at + 3)
        entries.append(bytes([kind, may_change]) + (_i32_const(mutable) if may_change else payload[at + 2 : end + 1]))
        changing += may_change
        at = end + 1
    if changing != 1:
        raise ValueError(f"{changing} mutable globals, not the stack pointer alone")
    return _vector([*entries, bytes([I32, 0]) + _i32_const(address)])


def _imported(payload: bytes) -> int:
    """How many functions are imported. Nothing else may be."""
    count, at = _read(payload, 0)
    for _ in range(count):
        for _name in ("module", "field"):
            size, at = _read(payload, at)
            at += size
        if payload[at] != FUNCTION_EXPORT[0]:
            raise ValueError("an import that is not a function")
        _type_index, at = _read(payload, at + 1)
    return count


def _exported(payload: bytes) -> dict[str, bytes]:
    """The entries of the export section by name."""
    count, at = _read(payload, 0)
    entries = {}
    for _ in range(count):
        begin = at
        size, at = _read(payload, at)
        name = payload[at : at + size].decode()
        _index, at = _read(payload, at + size + 1)
        entries[name] = payload[begin:at]
    return entries


def _index(exported: dict[str, bytes], name: str) -> int:
    """The index of what is exported as `name`."""
    if name not in exported:
        raise ValueError(f"the module does not export {name}")
    entry = exported[name]
    size, at = _read(entry, 0)
    return _read(entry, at + size + 1)[0]


def _export(name: str, kind: bytes, index: int) -> bytes:
    return _sized(name.encode()) + kind + _unsigned(index)


def _type(payload: bytes, function: int) -> int:
    """The index of the type of a function, counted without the imported ones."""
    kind, at = _read(payload, 0)
    for _ in range(function + 1):
        kind, at = _read(payload, at)
    return kind


def _loop(step: int) -> bytes:
    return _sized(LOOP[0] + bytes([CALL]) + _unsigned(step) + LOOP[1])


def _longer(vector: bytes, item: bytes) -> bytes:
    count, at = _read(vector, 0)
    return _unsigned(count + 1) + vector[at:] + item


def _sized(content: bytes) -> bytes:
    return _unsigned(len(content)) + content


def _vector(items: list[bytes]) -> bytes:
    return _unsigned(len(items)) + b"".join(items)


def _i32_const(value: int) -> bytes:
    return bytes([I32_CONST]) + _signed(value) + bytes([END])


def _read(code: bytes, at: int) -> tuple[int, int]:
    """The unsigned LEB128 number at `at`, and where it ends."""
    number = shift = 0
    while True:
        byte = code[at]
        number |= (byte & 0x7F) << shift
        shift += 7
        at += 1
        if byte < 0x80:
            return number, at


def _unsigned(number: int) -> bytes:
    out = bytearray()
    while number >= 0x80:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def _signed(number: int) -> bytes:
    """LEB128 with a sign, of an i32 given as 0 to 2**32 - 1 or as a signed number."""
    number = number - (1 << 32) if number >= 1 << 31 else number
    out = bytearray()
    while not -0x40 <= number < 0x40:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number & 0x7F)
    return bytes(out)
